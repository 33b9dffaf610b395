package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hertz is the unit of times in /proc/PID/stat (USER_HZ, which is 100 on every architecture of ours; proc_pid_stat(5)).
const hertz = 100

// task is one process as /proc/PID/stat shows it.
type task struct {
	pid, parent int
	cpu         time.Duration // its own, and that of children it has waited for
}

// tasks lists the processes of the machine.
func tasks() []task {
	var list []task
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, _ := strconv.Atoi(fields[1]) // the fields begin with the third
		var ticks int64
		for _, f := range fields[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
		list = append(list, task{pid, parent, time.Duration(ticks) * time.Second / hertz})
	}
	return list
}

// tree is a process and all below it, parents before their children. It is empty if the process has ended.
func tree(root int) []task {
	all := tasks()
	var list []task
	for _, t := range all {
		if t.pid == root {
			list = append(list, t)
		}
	}
	for i := 0; i < len(list); i++ {
		for _, t := range all {
			if t.parent == list[i].pid {
				list = append(list, t)
			}
		}
	}
	return list
}

// cpuOf is the processor time of a process and all below it.
func cpuOf(root int) time.Duration {
	var sum time.Duration
	for _, t := range tree(root) {
		sum += t.cpu
	}
	return sum
}

// exe is the path of what a process executes, "" if it has ended.
func exe(pid int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return path
}

// sweep ends every process that a trial left behind. They are known by their working directory: no other program has
// it.
func (s *subject) sweep() {
	for range 100 {
		left := 0
		for _, t := range tasks() {
			dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", t.pid))
			if strings.HasPrefix(dir, s.dir+"/") {
				left++
				_ = syscall.Kill(t.pid, syscall.SIGKILL) // it may have ended just now
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
