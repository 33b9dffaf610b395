// A process that cannot be saved, for three reasons at once: an io_uring, an unsupported socket and a SysV segment. It
// sits in sigtimedwait, one of the calls that fail with EINTR when the process is stopped however shortly (signal(7)):
// so it notices.
#include "ckpt.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/socket.h>

int main(void)
{
	char params[120] = {0}; // struct io_uring_params
	int segment = must(shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600));
	char *p = must(shmat(segment, NULL, 0));
	must(shmctl(segment, IPC_RMID, NULL)); // goes when we go
	int ring = (int)syscall(SYS_io_uring_setup, 4, params);
	if (ring < 0)
		printf("no io_uring: %s\n", strerror(errno)); // kernel.io_uring_disabled
	int packets = socket(AF_PACKET, SOCK_RAW, 0);
	if (packets < 0)
		packets = must(socket(AF_INET, SOCK_RAW, 1));
	printf("ring %d socket %d segment %p\n", ring, packets, (void *)p);
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	say_ready();
	for (;;) {
		struct timespec ts = {0, 50 * MS};
		if (sigtimedwait(&set, &info, &ts) == -1 && errno != EAGAIN) {
			printf("stopped\n");
			return 1;
		}
		if (access("go", F_OK) == 0) {
			printf("OK\n");
			return 0;
		}
	}
}
