// Command kernelrun runs the module's tests, or static programs, on Debian's 6.1 kernel in an emulated machine; see
// package kernels.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bpfckpt/bpfckpt/integration/kernels"
)

type options struct {
	core, verbose, short bool
	run, cmdline         string
	programs             bool
	script               string
	cpus, memory         int
	timeout              time.Duration
	args                 []string
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("kernelrun: ")
	var o options
	flag.BoolVar(&o.core, "core", false, "leave out what takes long under emulation, and run with -test.short")
	flag.BoolVar(&o.short, "short", false, "run with -test.short")
	flag.BoolVar(&o.verbose, "v", false, "show all output as it comes")
	flag.StringVar(&o.run, "run", "", "run only the tests that match, as in go test -run")
	flag.BoolVar(&o.programs, "programs", false,
		"the arguments are not packages but one static program of this machine and its arguments")
	flag.StringVar(&o.script, "script", "",
		"run this shell script in place of the tests, with all that they need around it (/test, /built, /src)")
	flag.StringVar(&o.cmdline, "append", "", "add to the kernel command line")
	flag.IntVar(&o.cpus, "cpus", 2, "processors of the guest")
	flag.IntVar(&o.memory, "memory", 2048, "memory of the guest, MiB")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "for everything in the guest")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(),
			"usage: kernelrun [flags] [PACKAGE...]\n       kernelrun [flags] -programs PROGRAM [ARG...]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.args = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Print(err)
		stop()
		os.Exit(1)
	}
}

var errFailed = errors.New("tests failed on this kernel")

func run(ctx context.Context, o options) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "bpfckpt-kernelrun-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	start := time.Now()
	kernel, err := kernels.FetchKernel(ctx)
	if err != nil {
		return err
	}
	suite, err := kernels.NewSuite(ctx, root, work)
	if err != nil {
		return err
	}
	if err := fill(ctx, suite, o, root); err != nil {
		return err
	}
	fmt.Printf("%s: built %d programs in %.1fs\n", kernel.Package, len(suite.Plan.Commands),
		time.Since(start).Seconds())
	m := kernels.Machine{
		Kernel: kernel, CPUs: o.cpus, MemoryMB: o.memory, Append: o.cmdline, Timeout: o.timeout,
		Output: events{os.Stdout, o.everything()},
	}
	start = time.Now()
	rep, err := m.Run(ctx, suite.Tree, suite.Plan)
	if rep != nil {
		summary(os.Stdout, rep, o.everything())
		fmt.Printf("%d commands in %.1fs\n", len(rep.Outcomes), time.Since(start).Seconds())
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(rep.Outcomes, func(c kernels.Outcome) bool { return !c.OK() }) {
		return errFailed
	}
	return nil
}

// fill puts what the command line asks for into the suite.
func fill(ctx context.Context, suite *kernels.Suite, o options, root string) error {
	if o.programs {
		if len(o.args) == 0 {
			return errors.New("-programs needs a program")
		}
		suite.AddProgram(o.args[0], o.args[1:]...)
		return nil
	}
	pkgs, err := kernels.Packages(ctx, root, o.core)
	if err != nil {
		return err
	}
	args := []string{"-test.v"}
	if o.core || o.short {
		args = append(args, "-test.short")
	}
	wanted := 0
	if o.named("integration") && (len(o.args) > 0 || !o.core) {
		wanted++
		integration := args
		if o.run != "" {
			integration = append(args[:len(args):len(args)], "-test.run="+o.run)
		}
		if err := suite.AddIntegration(ctx, integration...); err != nil {
			return err
		}
	}
	for _, p := range pkgs {
		if !o.named(p.Rel) {
			continue
		}
		wanted++
		if o.run != "" {
			p.Run = o.run
		}
		if err := suite.AddPackage(ctx, p, args...); err != nil {
			return err
		}
	}
	if wanted == 0 {
		return fmt.Errorf("no package with tests among %v", o.args)
	}
	if o.script != "" {
		suite.Plan.Commands = nil
		suite.AddProgram(o.script)
	}
	return nil
}

// everything reports whether all output is to be shown.
func (o *options) everything() bool { return o.verbose || o.programs || o.script != "" }

// named reports whether the command line asks for the package.
func (o *options) named(rel string) bool {
	return len(o.args) == 0 || slices.Contains(o.args, rel) || slices.Contains(o.args, "./"+rel)
}

// summary prints a line per command, and the output of those that failed unless it was shown already.
func summary(w io.Writer, rep *kernels.Report, shown bool) {
	passed, failed, skipped := 0, 0, 0
	for _, o := range rep.Outcomes {
		p, f, s := o.Tests()
		passed, failed, skipped = passed+p, failed+len(f), skipped+len(s)
		if !o.OK() && !shown {
			fmt.Fprintf(w, "--- %s on %s: %s\n%s\n", o.Name, rep.Release, o.Verdict(), o.Output)
		}
	}
	for _, o := range rep.Outcomes {
		p, f, s := o.Tests()
		fmt.Fprintf(w, "%-28s %-30s %3d passed, %d failed, %d skipped", o.Name, o.Verdict(), p, len(f), len(s))
		if len(f)+len(s) > 0 {
			fmt.Fprintf(w, " (%s)", strings.Join(append(f, s...), " "))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "Linux %s: %d passed, %d failed, %d skipped\n", rep.Release, passed, failed, skipped)
}

// events passes on what the guest sends: everything, or only the event lines.
type events struct {
	w   io.Writer
	all bool
}

func (e events) Write(b []byte) (int, error) {
	if e.all || strings.HasPrefix(string(b), "=== ") && !strings.HasPrefix(string(b), "=== RUN") {
		return e.w.Write(b)
	}
	return len(b), nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
