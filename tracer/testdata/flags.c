// A child changes the flags of a description that it shares with its parent, after many other calls, closes its descriptor and makes a file "done". It begins when
// there is a file "go".
#include "../../integration/testdata/ckpt.h"

int main(void)
{
	int fd = must(open("shared", O_RDWR | O_CREAT, 0600));

	ready();
	if (must(fork()) == 0) {
		for (int i = 0; i < 200; i++)
			umask(022);
		must(fcntl(fd, F_SETFL, O_NONBLOCK));
		must(close(fd));
		must(close(must(open("done", O_WRONLY | O_CREAT, 0600))));
	}
	for (;;)
		pause();
}
