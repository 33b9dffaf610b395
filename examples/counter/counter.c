/* The classic demonstration of a checkpointer: it counts, twice a second (or every ARG milliseconds), and knows nothing of snapshots. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
	long ms = argc > 1 ? atol(argv[1]) : 500;
	struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

	for (int i = 1;; i++) {
		printf("%d\n", i);
		fflush(stdout);
		nanosleep(&pause, NULL);
	}
}
