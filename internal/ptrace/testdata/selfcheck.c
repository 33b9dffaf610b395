// A program that notices if anybody touches it. Each thread does one thing that an injected system call could disturb, over and over,
// and checks everything about it; a difference is reported and ends the process with status 1. SIGTERM ends it with status 0 once every
// thread has gone round at least once.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_int stop;
static atomic_long rounds[16];
static atomic_long alarms;

#define FAIL(...) do { fprintf(stderr, "selfcheck: " __VA_ARGS__); fputc('\n', stderr); _exit(1); } while (0)

static int64_t now(void) {
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

// spin fills every register and the red zone, spins, and returns 0 if all are as they were.
extern int spin(long n, const void *vectors);
asm(".text\n.globl spin\n.type spin,@function\nspin:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "vmovdqu (%rsi),%ymm0; vmovdqu 32(%rsi),%ymm1; vmovdqu 64(%rsi),%ymm7; vmovdqu 96(%rsi),%ymm15\n"
    "fld1; fldpi; fldl2e\n"
    "stmxcsr -8(%rsp); orl $0x8000,-8(%rsp); ldmxcsr -8(%rsp)\n"
    "movabs $0x1111111111111111,%rax; movabs $0x2222222222222222,%rbx; movabs $0x3333333333333333,%rdx; movabs $0x4444444444444444,%rbp\n"
    "movabs $0x5555555555555555,%r8; movabs $0x6666666666666666,%r9; movabs $0x7777777777777777,%r10; movabs $0x8888888888888888,%r11\n"
    "movabs $0x9999999999999999,%r12; movabs $0xaaaaaaaaaaaaaaaa,%r13; movabs $0xbbbbbbbbbbbbbbbb,%r14; movabs $0xcccccccccccccccc,%r15\n"
    "mov %rax,-16(%rsp); mov %rbx,-24(%rsp); mov %rdx,-64(%rsp); mov %rbp,-120(%rsp); mov %r8,-128(%rsp)\n"
    "mov %rdi,%rcx\n"
    "1: stc; nop; nop; nop; nop; jnc 9f; clc; nop; nop; nop; nop; jc 9f; dec %rcx; jnz 1b\n"
    "cmp %rax,-16(%rsp); jne 9f; cmp %rbx,-24(%rsp); jne 9f; cmp %rdx,-64(%rsp); jne 9f; cmp %rbp,-120(%rsp); jne 9f; cmp %r8,-128(%rsp); jne 9f\n"
    "movabs $0x1111111111111111,%rcx; cmp %rcx,%rax; jne 9f; movabs $0x2222222222222222,%rcx; cmp %rcx,%rbx; jne 9f\n"
    "movabs $0x3333333333333333,%rcx; cmp %rcx,%rdx; jne 9f; movabs $0x4444444444444444,%rcx; cmp %rcx,%rbp; jne 9f\n"
    "movabs $0x5555555555555555,%rcx; cmp %rcx,%r8; jne 9f; movabs $0x6666666666666666,%rcx; cmp %rcx,%r9; jne 9f\n"
    "movabs $0x7777777777777777,%rcx; cmp %rcx,%r10; jne 9f; movabs $0x8888888888888888,%rcx; cmp %rcx,%r11; jne 9f\n"
    "movabs $0x9999999999999999,%rcx; cmp %rcx,%r12; jne 9f; movabs $0xaaaaaaaaaaaaaaaa,%rcx; cmp %rcx,%r13; jne 9f\n"
    "movabs $0xbbbbbbbbbbbbbbbb,%rcx; cmp %rcx,%r14; jne 9f; movabs $0xcccccccccccccccc,%rcx; cmp %rcx,%r15; jne 9f\n"
    "vpxor (%rsi),%ymm0,%ymm2; vptest %ymm2,%ymm2; jnz 9f; vpxor 32(%rsi),%ymm1,%ymm2; vptest %ymm2,%ymm2; jnz 9f\n"
    "vpxor 64(%rsi),%ymm7,%ymm2; vptest %ymm2,%ymm2; jnz 9f; vpxor 96(%rsi),%ymm15,%ymm2; vptest %ymm2,%ymm2; jnz 9f\n"
    "stmxcsr -8(%rsp); mov -8(%rsp),%ecx; and $0x8000,%ecx; jz 9f\n"
    "fldl2e; fcomip %st(1),%st; jne 9f; fstp %st(0); fldpi; fcomip %st(1),%st; jne 9f; fstp %st(0); fld1; fcomip %st(1),%st; jne 9f; fstp %st(0)\n"
    "xor %eax,%eax; jmp 8f\n"
    "9: mov $1,%eax\n"
    "8: stmxcsr -8(%rsp); andl $0xffff7fff,-8(%rsp); ldmxcsr -8(%rsp); vzeroupper\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");

static void *registers(void *arg) {
	uint64_t v[16];
	for (int i = 0; i < 16; i++) v[i] = 0x0123456789abcdefULL * (i + 3);
	while (!stop) {
		errno = 77;
		if (spin(20000, v)) FAIL("a register, a flag or the red zone changed");
		if (errno != 77) FAIL("errno changed");
		rounds[(long)arg]++;
	}
	return 0;
}

static void *sleeper(void *arg) {
	while (!stop) {
		struct timespec ts = {0, 30000000}, rest = {7, 7};
		int64_t t = now();
		if (nanosleep(&ts, &rest) != 0) FAIL("nanosleep: %s", strerror(errno));
		t = now() - t;
		if (t < 30000000) FAIL("nanosleep of 30 ms took %ld ns", (long)t);
		rounds[(long)arg]++;
	}
	return 0;
}

static void *waiter(void *arg) {
	while (!stop) {
		uint32_t word = 5;
		struct timespec ts = {0, 25000000};
		int64_t t = now();
		long r;
		register struct timespec *r10 asm("r10") = &ts;
		asm volatile("mov $202,%%eax; syscall" : "=a"(r) : "D"(&word), "S"(FUTEX_WAIT_PRIVATE), "d"(5), "r"(r10) : "rcx", "r11", "memory");
		if (r != -ETIMEDOUT) FAIL("futex: %s", strerror(-r));
		if (now() - t < 25000000) FAIL("futex returned early");
		rounds[(long)arg]++;
	}
	return 0;
}

static void *poller(void *arg) {
	while (!stop) {
		int64_t t = now();
		if (poll(0, 0, 20) != 0) FAIL("poll: %s", strerror(errno));
		if (now() - t < 20000000) FAIL("poll returned early");
		rounds[(long)arg]++;
	}
	return 0;
}

static int pipes[2];

static void *reader(void *arg) {
	unsigned char want = 0, got;
	while (!stop) {
		if (read(pipes[0], &got, 1) != 1) FAIL("read: %s", strerror(errno));
		if (got != want++) FAIL("a byte was lost");
		rounds[(long)arg]++;
	}
	return 0;
}

static void *writer(void *arg) {
	unsigned char c = 0;
	while (!stop) {
		if (write(pipes[1], &c, 1) != 1) FAIL("write: %s", strerror(errno));
		c++;
		usleep(3000);
		rounds[(long)arg]++;
	}
	for (int i = 0; i < 4; i++, c++)
		if (write(pipes[1], &c, 1) != 1) FAIL("write: %s", strerror(errno));
	return 0;
}

static atomic_long got1, got2;
static void on_usr1(int sig) { (void)sig; got1++; }
static void on_usr2(int sig, siginfo_t *si, void *ctx) {
	(void)sig; (void)ctx;
	if (si->si_value.sival_int != 4711) FAIL("siginfo was lost");
	got2++;
}
static void on_alarm(int sig) { (void)sig; alarms++; }

// suspended waits in sigsuspend for a signal that is blocked everywhere else.
static pthread_t suspended_thread;
static void *suspended(void *arg) {
	sigset_t wait;
	sigfillset(&wait);
	sigdelset(&wait, SIGUSR1);
	while (!stop) {
		sigset_t before, after;
		long n = got1;
		pthread_sigmask(SIG_SETMASK, 0, &before);
		if (sigsuspend(&wait) != -1 || errno != EINTR) FAIL("sigsuspend: %s", strerror(errno));
		pthread_sigmask(SIG_SETMASK, 0, &after);
		if (memcmp(&before, &after, 8)) FAIL("the signal mask changed");
		if (got1 != n + 1) FAIL("%ld signals during one sigsuspend", got1 - n);
		rounds[(long)arg]++;
	}
	return 0;
}

static void *sender(void *arg) {
	while (!stop) {
		long n = rounds[6];
		pthread_kill(suspended_thread, SIGUSR1);
		while (rounds[6] == n && !stop) usleep(1000);
		rounds[(long)arg]++;
	}
	pthread_kill(suspended_thread, SIGUSR1);
	return 0;
}

// alternate takes queued signals on an alternate stack that is small, and checks that it stays set.
static void *alternate(void *arg) {
	size_t size = 16384;
	stack_t ss = {.ss_sp = malloc(size), .ss_size = size}, old;
	sigset_t only;
	sigemptyset(&only);
	sigaddset(&only, SIGUSR2);
	if (sigaltstack(&ss, 0)) FAIL("sigaltstack");
	pthread_sigmask(SIG_UNBLOCK, &only, 0);
	while (!stop) {
		long n = got2;
		union sigval v = {.sival_int = 4711};
		for (int i = 0; i < 3; i++)
			if (pthread_sigqueue(pthread_self(), SIGUSR2, v)) FAIL("pthread_sigqueue");
		if (sigaltstack(0, &old) || old.ss_sp != ss.ss_sp || old.ss_size != size || old.ss_flags) FAIL("the alternate stack changed");
		if (got2 == n) FAIL("a signal was lost");
		usleep(500);
		rounds[(long)arg]++;
	}
	return 0;
}

// filtered puts the process under a seccomp filter: prctl fails, adjtimex kills, everything else works.
static void filtered(void) {
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_adjtimex, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof code / sizeof *code, code};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) FAIL("seccomp: %s", strerror(errno));
}

int main(int argc, char **argv) {
	(void)argv;
	if (argc > 1) filtered();
	void *(*const work[])(void *) = {registers, sleeper, waiter, poller, reader, writer, suspended, sender, alternate};
	enum { n = sizeof work / sizeof *work };
	pthread_t thread[n];
	sigset_t all, term;
	struct sigaction sa = {.sa_handler = on_usr1};
	sigaction(SIGUSR1, &sa, 0);
	sa.sa_handler = on_alarm;
	sa.sa_flags = SA_RESTART;
	sigaction(SIGALRM, &sa, 0);
	sa.sa_sigaction = on_usr2;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigaction(SIGUSR2, &sa, 0);
	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGTRAP);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, 0);
	if (pipe(pipes)) FAIL("pipe");
	for (long i = 0; i < n; i++) {
		if (pthread_create(&thread[i], 0, work[i], (void *)i)) FAIL("pthread_create");
		if (work[i] == suspended) suspended_thread = thread[i]; // before its sender begins
	}
	// The main thread takes an alarm every 2 ms while it waits for the end.
	sigemptyset(&term);
	sigaddset(&term, SIGALRM);
	pthread_sigmask(SIG_UNBLOCK, &term, 0);
	struct itimerval it = {{0, 2000}, {0, 2000}};
	setitimer(ITIMER_REAL, &it, 0);
	puts("ready");
	fflush(stdout);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	int sig;
	while (sigwait(&term, &sig) || sig != SIGTERM) {}
	for (int i = 0; i < n; i++)
		for (int k = 0; !rounds[i]; k++, usleep(1000))
			if (k > 10000) FAIL("thread %d does not go round", i);
	stop = 1;
	for (int i = 0; i < n; i++) pthread_join(thread[i], 0);
	if (!alarms) FAIL("no alarms");
	for (int i = 0; i < n; i++) printf("%ld ", rounds[i]);
	printf("alarms %ld\n", alarms);
	return 0;
}
