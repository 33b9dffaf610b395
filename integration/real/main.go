// Command real puts real programs of Debian through bpfckpt: each is saved while it works and brought back, in several
// ways, and what it writes must be what it writes without interruption. `make real` runs it, as root; it is not part of
// `make test`, since it installs many packages and takes most of an hour.
//
// A program is a line of shell in the table of programs.go, chosen so that the same bytes come out each time. One run
// without bpfckpt tells what comes out, its exit status and how much processor time it takes; the moments at which the
// runs that follow are interrupted are shares of that time, so that they lie in the middle of the work on a busy
// machine too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	run, modes *regexp.Regexp
	out        string
	keep, list bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("real: ")
	var o options
	var run, modes string
	flag.StringVar(&run, "run", "", "only the programs whose name matches this regular expression")
	flag.StringVar(&modes, "modes", "", "only the ways to interrupt whose name matches this regular expression")
	flag.StringVar(&o.out, "o", "", "write what came of each program into the table in this file; lines of programs that are not run stay")
	flag.BoolVar(&o.keep, "keep", false, "keep the work directory, also if all is well")
	flag.BoolVar(&o.list, "list", false, "list the programs and what they need, and run none")
	flag.Parse()
	var err error
	if o.run, err = regexp.Compile(run); err == nil {
		o.modes, err = regexp.Compile(modes)
	}
	if err != nil {
		log.Fatal(err)
	}
	keepInherited()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = realMain(ctx, o)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

var errFailed = errors.New("some programs did not come through")

func realMain(ctx context.Context, o options) error {
	list := chosen(o)
	if o.list {
		for _, p := range list {
			fmt.Printf("%-18s %s\n", p.name, strings.Join(p.needs, " "))
		}
		return nil
	}
	if o.out != "" && len(modesOf(o)) < len(modes) {
		return errors.New("-o makes a table of all ways to interrupt: it does not go with -modes")
	}
	if os.Getuid() != 0 {
		return errors.New("saving and restoring processes under their old ids needs root")
	}
	if err := install(ctx, list); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "real-")
	if err != nil {
		return err
	}
	l := &lab{command: filepath.Join(work, "bpfckpt"), work: work}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", l.command,
		"./cmd/bpfckpt").CombinedOutput(); err != nil {
		return fmt.Errorf("build the command: %w\n%s", err, out)
	}
	begun := time.Now()
	rows, err := l.all(ctx, list, o)
	if err != nil {
		return err
	}
	tell(os.Stdout, rows, modesOf(o), time.Since(begun))
	if failures(rows) > 0 {
		return fmt.Errorf("%w; their files are in %s", errFailed, work)
	}
	if o.keep {
		fmt.Println("the files are in", work)
		return nil
	}
	return os.RemoveAll(work)
}

// keepInherited keeps descriptors that whoever runs us left open from the programs: they belong to others, and are
// refused.
func keepInherited() {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if n, err := strconv.Atoi(fd.Name()); err == nil && n > 2 {
			syscall.CloseOnExec(n)
		}
	}
}

// chosen are the programs that the command line asks for.
func chosen(o options) []program {
	var list []program
	for _, p := range programs {
		if o.run.MatchString(p.name) {
			list = append(list, p)
		}
	}
	return list
}

// modesOf are the ways to interrupt that the command line asks for.
func modesOf(o options) []mode {
	var list []mode
	for _, m := range modes {
		if o.modes.MatchString(m.name) {
			list = append(list, m)
		}
	}
	return list
}
