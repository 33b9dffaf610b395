// 16 threads, each with thread-local storage, that hand work to each other through mutexes, condition variables and
// barriers and send each other signals. The result does not depend on who runs when. It runs for a fixed number of
// rounds.
#include "ckpt.h"

enum { threads = 16 };

static __thread uint64_t local;
static __thread volatile sig_atomic_t signals;
static pthread_t ids[threads];
static pthread_barrier_t barrier;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static uint64_t chain = 1;
static int turn, rounds;

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static void *work(void *arg)
{
	int self = (int)(long)arg;
	local = (uint64_t)self;
	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < 2000; i++)
			local = local * 6364136223846793005ULL + 1442695040888963407ULL;
		pthread_mutex_lock(&lock);
		while (turn != self)
			pthread_cond_wait(&turn_changed, &lock);
		chain = chain * 31 + (local >> 33);
		turn = (turn + 1) % threads;
		pthread_cond_broadcast(&turn_changed);
		pthread_mutex_unlock(&lock);
		int before = signals;
		pthread_barrier_wait(&barrier);
		pthread_kill(ids[(self + 1) % threads], SIGUSR1);
		while (signals == before) // exactly one comes a round
			sched_yield();
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			nap(MS);
	}
	return (void *)(long)signals;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	rounds = argc > 1 ? atoi(argv[1]) : 300;
	must(sigaction(SIGUSR1, &sa, NULL));
	pthread_barrier_init(&barrier, NULL, threads + 1);
	pthread_barrier_destroy(&barrier);
	pthread_barrier_init(&barrier, NULL, threads);
	pthread_mutex_lock(&lock);
	for (long i = 0; i < threads; i++)
		must(-pthread_create(&ids[i], NULL, work, (void *)i));
	pthread_mutex_unlock(&lock);
	say_ready();
	long total = 0;
	for (int i = 0; i < threads; i++) {
		void *got;
		pthread_join(ids[i], &got);
		total += (long)got;
	}
	printf("chain %llu signals %ld\n", (unsigned long long)chain, total);
	return 0;
}
