// Package bpfckpt saves running Linux processes to disk and brings them back: checkpoint and restart without changing,
// relinking, preloading or wrapping the program. The command is in cmd/bpfckpt; the libraries are snapshot, restore and
// image, and above them agent and job.
package bpfckpt

//go:generate go tool bpf2go -output-dir bpf -go-package bpf -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -Wno-unused-variable -Wno-unused-function" -type rec_kind -type rec_head -type usage_rec -type inode_rec -type rlimit_rec -type action_rec -type inode_bit -type process_rec -type thread_rec -type mm_rec -type actions_rec -type cred_rec -type timer_rec -type vma_rec -type mapped_rec -type fd_rec -type wait_rec -type ns_bit -type thread_bit -type vma_bit Iter bpf/iter.bpf.c -- -Ibpf
//go:generate go tool bpf2go -output-dir bpf -go-package bpf -target amd64,arm64 -cflags "-O2 -g -mcpu=v3 -Wall -Werror -Wno-unused-variable -Wno-unused-function" -type ev_kind -type call_kind -type inode_rec -type action_rec -type rlimit_rec -type ev_head -type vma_state -type ev_map -type ev_map_file -type map_bit -type turns_arg -type ring_head -type ring_layout -type warm_arg -type fd_bit -type ev_fd -type ev_open -type ev_action -type ev_limit -type ev_call -type ev_named -type share_bit -type ev_task -type watched -type watched_mm -type watched_group -type held_rec -type lost_part -type watch_stats Watch bpf/watch.bpf.c -- -Ibpf
//go:generate go tool bpf2go -output-dir bpf -go-package bpf -target amd64,arm64 -cflags "-O2 -g -mcpu=v3 -Wall -Werror -Wno-unused-variable -Wno-unused-function" Fexit bpf/fexit.bpf.c -- -Ibpf
//go:generate go tool bpf2go -output-dir tracer -output-suffix _test -go-package tracer -target amd64,arm64 -cflags "-O2 -g -mcpu=v3 -Wall -Werror -Wno-unused-variable -Wno-unused-function" -type unit_arg unit bpf/unit.bpf.c -- -Ibpf
//go:generate scripts/adr-index
