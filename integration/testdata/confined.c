// A program with state that the kernel keeps with its credentials and tells nobody: "landlock" is in a sandbox, "keys"
// has keyrings of its own.
#include "ckpt.h"
#include <linux/keyctl.h>
#include <linux/landlock.h>

static void landlock(void)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK};
	int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr.handled_access_fs, 0);
	if (fd < 0)
		exit(3);
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(syscall(SYS_landlock_restrict_self, fd, 0));
	must(close(fd));
	ready();
}

static void keys(void)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)
		exit(3);
	must(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1));
	ready();
}

static const struct test_case cases[] = {
	{"landlock", landlock},
	{"keys", keys},
};

MAIN(cases)
