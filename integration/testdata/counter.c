// counter [STEPS [MS]]: counts into the file count.txt, one line a step, then prints the sum. It never waits for
// anything: the test snapshots it wherever it happens to be.
#include "ckpt.h"

int main(int argc, char **argv)
{
	int steps = argc > 1 ? atoi(argv[1]) : 400, ms = argc > 2 ? atoi(argv[2]) : 2;
	uint64_t sum = 0;
	FILE *f = fopen("count.txt", "w");
	if (f == NULL)
		die("count.txt");
	say_ready();
	for (int i = 1; i <= steps; i++) {
		sum = sum * 31 + (uint64_t)i;
		fprintf(f, "%d %llu\n", i, (unsigned long long)sum);
		fflush(f);
		nap(ms * MS);
	}
	fclose(f);
	printf("sum %llu\n", (unsigned long long)sum);
	return 0;
}
