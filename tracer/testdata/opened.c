// Opens files by a crooked path, below a directory by openat2, and by a path that is too long for a record; moves the descriptors, and takes
// the first file's name away.
#include "../../integration/testdata/ckpt.h"
#include <linux/openat2.h>

static void longer(void)
{
	char path[400] = "";
	for (int i = 0; i < 190; i++)
		strcat(path, "./");
	int fd = must(open(strcat(path, "long"), O_WRONLY | O_CREAT, 0600));
	must(dup2(fd, 52));
}

int main(void)
{
	ready();
	must(mkdir("sub", 0700));
	int fd = must(open("sub/../file", O_RDWR | O_CREAT, 0640));
	must(dup2(fd, 50));
	close(fd);
	must(unlink("file"));
	struct open_how how = {.flags = O_RDWR | O_CREAT | O_APPEND, .mode = 0604};
	int dir = must(open("sub", O_RDONLY | O_DIRECTORY));
	must(dup2(must((int)syscall(SYS_openat2, dir, "./below", &how, sizeof how)), 51));
	longer();
	must(open("done", O_WRONLY | O_CREAT, 0600));
	for (;;)
		pause();
}
