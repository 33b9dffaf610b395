// Changes the protection of a page N times: protect N. It begins when there is a file "go"; then it makes a file "done".
#include "../../integration/testdata/ckpt.h"

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;
	char *p = must(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	ready();
	for (int i = 0; i < n; i++)
		must(mprotect(p, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE));
	must(close(must(open("done", O_WRONLY | O_CREAT, 0600))));
	for (;;)
		pause();
}
