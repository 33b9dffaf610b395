// Two children, each of which makes a grandchild after READY; then the parent ends by a signal.
#include "../../integration/testdata/ckpt.h"

static void child(int n)
{
	wait_go();
	if (fork() == 0) {
		char name[32];
		snprintf(name, sizeof name, "grandchild %d", n);
		must(open(name, O_WRONLY | O_CREAT, 0600));
		_exit(0);
	}
	wait(NULL);
	_exit(0);
}

int main(void)
{
	for (int n = 1; n <= 2; n++)
		if (fork() == 0)
			child(n);
	ready();
	wait(NULL);
	wait(NULL);
	raise(SIGTERM);
}
