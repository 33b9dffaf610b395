// Opens a file by a crooked path, moves the descriptor, and takes the file's name away.
#include "../../integration/testdata/ckpt.h"

int main(void)
{
	ready();
	must(mkdir("sub", 0700));
	int fd = must(open("sub/../file", O_RDWR | O_CREAT, 0640));
	must(dup2(fd, 50));
	close(fd);
	must(unlink("file"));
	must(open("done", O_WRONLY | O_CREAT, 0600));
	for (;;)
		pause();
}
