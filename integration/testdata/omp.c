// OpenMP: loops over shared arrays with barriers and reductions; the result is the same for any number of threads.
#include "ckpt.h"
#include <omp.h>

enum { n = 1 << 16 };

static uint64_t a[n], b[n];

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 400;
	uint64_t sum = 0;
	omp_set_num_threads(4);
	for (int i = 0; i < n; i++)
		a[i] = (uint64_t)i;
	say_ready();
	for (int round = 0; round < rounds; round++) {
#pragma omp parallel for schedule(static)
		for (int i = 0; i < n; i++)
			b[i] = a[i] * 2862933555777941757ULL + a[(i + 1) % n];
#pragma omp parallel for schedule(dynamic, 512) reduction(+ : sum)
		for (int i = 0; i < n; i++) {
			a[i] = b[i] ^ (b[i] >> 29);
			sum += a[i];
		}
		nap(MS);
	}
	printf("sum %llu\n", (unsigned long long)sum);
	return 0;
}
