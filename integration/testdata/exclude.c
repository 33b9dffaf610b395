// Memory that a snapshot may leave out: a cache by the name of the file it maps, scratch by MADV_DONTDUMP, and beside
// them data that must come back. The program tells which of them came back; without a checkpoint all did.
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ckpt.h"

enum { SIZE = 4 << 20 };

static unsigned char *make(unsigned char fill, int fd)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	memset(p, fill, SIZE);
	return p;
}

static void tell(const char *name, const unsigned char *p, unsigned char fill)
{
	size_t kept = 0, zero = 0;
	for (size_t i = 0; i < SIZE; i++) {
		kept += p[i] == fill;
		zero += p[i] == 0;
	}
	printf("%s is %s\n", name, kept == SIZE ? "there" : zero == SIZE ? "zero" : "wrong");
}

int main(void)
{
	int fd = open("cache.bin", O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, SIZE))
		die("cache.bin");
	unsigned char *data = make(1, -1), *cache = make(2, fd), *scratch = make(3, -1);
	madvise(scratch, SIZE, MADV_DONTDUMP);
	ready();
	tell("data", data, 1);
	tell("cache", cache, 2);
	tell("scratch", scratch, 3);
	return 0;
}
