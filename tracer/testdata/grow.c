// Lets its stack grow N times, each time followed by a call that does not take the mm's lock: grow N. It begins when there is a file "go"; then it makes a
// file "done".
#include "../../integration/testdata/ckpt.h"

static char *page;

static void deeper(int n)
{
	volatile char room[PAGE];

	room[0] = 1;
	if (n % 2)
		must(madvise(page, PAGE, MADV_DONTNEED));
	else
		must(mprotect(page, 0, PROT_READ));
	usleep(500); // mappings that are read again once must not stay right by that
	if (n > 0)
		deeper(n - 1);
	room[1] = 1;
}

int main(int argc, char **argv)
{
	page = must(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	ready();
	deeper(argc > 1 ? atoi(argv[1]) : 0);
	must(close(must(open("done", O_WRONLY | O_CREAT, 0600))));
	for (;;)
		pause();
}
