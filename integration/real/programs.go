package main

import "slices"

// program is one program of the table. Its lines of shell are run by bash.
type program struct {
	name string
	// "command=package" or "/file=package": what must be there, and the Debian package that brings it
	needs []string
	setup string // run once in the directory "in", before anything else
	// run in an empty directory beside it, with standard output in the file "out" there; exec makes it the root of the
	// tree
	command   string
	meanwhile string // run once in "in" while the program works, before it is interrupted
	status    int    // its exit status
	refused   string // the code with which it may be refused, "" if it must come through
}

// programs is the whole table.
var programs = slices.Concat(languages, compilers, numbers, media, archives, tools, refusals)

// texts makes t.txt, 60 MB of lines that hardly compress, the same each time.
const texts = `openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c 45000000 | base64 >t.txt
`

// languages are interpreters and virtual machines.
var languages = []program{
	{
		name: "python3", needs: []string{"/usr/bin/python3=python3"},
		setup: `cat >job.py <<'END'
import hashlib, json, random, re
random.seed(4)
seen = {}
for i in range(300000):
    key = "%x" % random.getrandbits(40)
    seen[key] = hashlib.sha256(key.encode()).hexdigest()
    if i % 60000 == 0:
        print(i, json.dumps(sorted(seen.items())[:2]), len(re.findall("[a-f]{3}", "".join(seen))), flush=True)
END`,
		command: `exec /usr/bin/python3 ../in/job.py`,
	},
	{
		name: "python3 multiprocessing", needs: []string{"/usr/bin/python3=python3"},
		setup: `cat >job.py <<'END'
import multiprocessing as mp
def work(queue, n):
    for i in range(8):
        queue.put((n, i, sum(k * k % (n + 7) for k in range(1200000))))
if __name__ == "__main__":
    queue = mp.SimpleQueue()
    workers = [mp.Process(target=work, args=(queue, n)) for n in range(3)]
    for w in workers: w.start()
    got = [queue.get() for _ in range(24)]
    for w in workers: w.join()
    print(*sorted(got), sep="\n")
END`,
		command: `exec /usr/bin/python3 ../in/job.py`,
	},
	{
		name: "pypy3", needs: []string{"pypy3=pypy3"},
		setup: `cat >job.py <<'END'
def steps(n):
    k = 0
    while n != 1:
        n, k = (3 * n + 1 if n & 1 else n >> 1), k + 1
    return k
for lo in range(1, 4500000, 100000):
    print(lo, max(steps(n) for n in range(lo, lo + 100000)), flush=True)
END`,
		command: `exec pypy3 ../in/job.py`,
	},
	{
		name: "perl", needs: []string{"perl=perl"},
		command: `exec perl -e '$| = 1; srand 4; for $r (1 .. 3) { %h = (); for (1 .. 60000) { $h{int rand 1e6} .= chr 97 + $_ % 26 }
			print join(" ", $r, scalar keys %h, (sort { length $h{$b} <=> length $h{$a} || $a <=> $b } keys %h)[0 .. 4]), "\n" }'`,
	},
	{
		name: "ruby", needs: []string{"ruby=ruby"},
		command: `exec ruby -e '$stdout.sync = true; srand 4; t = Thread.new { (1 .. 30).map { |i| (1 .. 60000).sum { |k| k * k % (i + 3) } } }
			20.times { |r| puts [r, (1 .. 140000).map { rand(1 << 40).to_s(36) }.sort.group_by(&:size).map { |k, v| [k, v.first] }.sort].inspect }; p t.value'`,
	},
	{
		name: "lua", needs: []string{"lua5.4=lua5.4"},
		command: `exec lua5.4 -e 'for r = 1, 20 do local t = {}; for i = 1, 300000 do t[i] = (i * 7919 + r) % 1000003 end; table.sort(t)
			local c = coroutine.wrap(function() for i = 1, #t, 997 do coroutine.yield(t[i]) end end); local s = 0; for v in c do s = s * 31 + v end; print(r, s) end'`,
	},
	{
		name: "luajit", needs: []string{"luajit=luajit"},
		command: `exec luajit -e 'local s = 0; for r = 1, 26 do for i = 1, 2e7 do s = (s * 69069 + i) % 4294967296 end; print(r, s) end'`,
	},
	{
		name: "guile", needs: []string{"guile=guile-3.0"},
		command: `exec guile --no-auto-compile -c '(define (fib n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
			(do ((i 0 (+ i 1))) ((= i 5)) (format #t "~a ~a ~a~%" i (fib (+ 29 (modulo i 4))) (modulo (expt 3 (+ 90000 i)) 1000000007)))'`,
	},
	{
		name: "sbcl", needs: []string{"sbcl=sbcl"},
		setup: `cat >job.lisp <<'END'
(defun fib (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
(dotimes (i 22)
  (let ((table (make-hash-table)))
    (dotimes (k 400000) (push k (gethash (mod (* k 7919) 50021) table)))
    (format t "~a ~a ~a~%" i (fib (+ 31 (mod i 4))) (hash-table-count table))
    (finish-output)))
END`,
		command: `exec sbcl --script ../in/job.lisp`,
	},
	{
		name: "clisp", needs: []string{"clisp=clisp"},
		command: `exec clisp -q -q -norc -x '(progn (defun fib (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2))))) (compile (quote fib))
			(dotimes (i 12) (format t "~a ~a ~a~%" i (fib (+ 29 (mod i 3))) (mod (expt 3 (+ 90000 i)) 1000000007))))'`,
	},
	{
		name: "ecl", needs: []string{"ecl=ecl"},
		command: `exec ecl --norc --eval '(progn (defun fib (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
			(dotimes (i 60) (format t "~a ~a~%" i (fib (+ 25 (mod i 2))))) (quit))'`,
	},
	{
		name: "emacs", needs: []string{"emacs=emacs-nox"},
		setup: `cat >job.el <<'END'
(defun fib (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
(random "seed")
(with-temp-buffer
  (dotimes (i 60000) (insert (format "%d %d\n" (random 1000000) i)))
  (dotimes (i 5)
    (sort-lines nil (point-min) (point-max))
    (goto-char (point-min))
    (while (re-search-forward "^\\([0-9]+\\) \\([0-9]+\\)$" nil t) (replace-match "\\2 \\1"))
    (princ (format "%d %d %s\n" i (fib 22) (secure-hash 'sha256 (current-buffer)))))
  (write-region (point-min) (point-max) "lines.txt" nil 'quiet))
END`,
		command: `exec emacs --batch -Q -l ../in/job.el`,
	},
	{
		name: "java", needs: []string{"java=default-jre-headless", "javac=default-jdk-headless"},
		setup: `cat >Job.java <<'END'
import java.util.*;
import java.util.stream.*;
public class Job {
    public static void main(String[] a) throws Exception {
        var other = new long[1];
        var t = new Thread(() -> { for (long i = 1; i < 400_000_000L; i++) other[0] = other[0] * 31 + (i ^ i >> 3); });
        t.start();
        for (int r = 0; r < 9; r++) {
            var random = new Random(r);
            var map = new TreeMap<String, Integer>();
            for (int i = 0; i < 150_000; i++) map.merge(Integer.toString(random.nextInt(1 << 20), 36), 1, Integer::sum);
            System.out.println(r + " " + map.size() + " " + map.firstKey() + " " + IntStream.range(0, 400_000).parallel().mapToLong(i -> (long) i * i % 7).sum());
        }
        t.join();
        System.out.println(other[0]);
    }
}
END
javac Job.java`,
		command: `exec java -Xmx256m -cp ../in Job`,
	},
	{
		name: "R", needs: []string{"Rscript=r-base-core"},
		setup: `cat >job.R <<'END'
set.seed(4)
for (i in 1:16) {
  x <- matrix(rnorm(90000), 300)
  s <- svd(x)
  fit <- lm(x[, 1] ~ x[, 2:40])
  cat(i, format(s$d[1], digits = 12), format(sum(coef(fit)), digits = 12), length(unique(sort(sample(1e6, 2e5)))), "\n")
}
END`,
		command: `exec Rscript --vanilla ../in/job.R`,
	},
	{
		name: "octave", needs: []string{"octave-cli=octave"},
		setup: `cat >job.m <<'END'
rand("twister", 4);
for i = 1:40
  a = rand(300);
  e = sort(abs(eig(a)));
  printf("%d %.9f %.9f\n", i, e(end), trace(inv(a + 300 * eye(300))));
  fflush(stdout);
end
f = fopen("a.bin", "w"); fwrite(f, a, "double"); fclose(f);
END`,
		command: `OPENBLAS_NUM_THREADS=1 exec octave-cli --norc --quiet ../in/job.m`,
	},
	{
		name: "php", needs: []string{"php=php-cli"},
		command: `exec php -n -r 'mt_srand(4); for ($r = 0; $r < 4; $r++) { $a = []; for ($i = 0; $i < 300000; $i++) $a[] = dechex(mt_rand()); sort($a); echo $r, " ", md5(implode(",", $a)), "\n"; }'`,
	},
	{
		name: "tcl", needs: []string{"tclsh=tcl"},
		setup: `cat >job.tcl <<'END'
proc collatz n { set k 0; while {$n != 1} { if {$n & 1} { set n [expr {3 * $n + 1}] } else { set n [expr {$n >> 1}] }; incr k }; return $k }
for {set r 0} {$r < 80} {incr r} {
    set best 0
    for {set i 1} {$i < 3000} {incr i} { set best [expr {max($best, [collatz [expr {$r * 3000 + $i}]])}] }
    puts "$r $best"; flush stdout
}
END`,
		command: `exec tclsh ../in/job.tcl`,
	},
	{
		name: "swi-prolog", needs: []string{"swipl=swi-prolog-nox"},
		setup: `cat >job.pl <<'END'
queens(N, Qs) :- numlist(1, N, Ns), select_q(Ns, [], Qs).
select_q([], Qs, Qs).
select_q(Un, Safe, Qs) :- select(Q, Un, R), \+ attack(Q, 1, Safe), select_q(R, [Q | Safe], Qs).
attack(X, N, [Y | _]) :- (X is Y + N ; X is Y - N), !.
attack(X, N, [_ | Ys]) :- N1 is N + 1, attack(X, N1, Ys).
main :- forall(member(N, [6, 7, 8, 9, 10, 9, 10, 10, 9, 10, 10, 8, 10, 10, 10, 10, 9, 10, 10, 10, 10]), (findall(Q, queens(N, Q), L), length(L, K), format("~w ~w~n", [N, K]), flush_output)).
END`,
		command: `exec swipl -g main -t halt ../in/job.pl`,
	},
	{
		name: "gforth", needs: []string{"gforth=gforth"},
		command: `exec gforth -e ': fib dup 2 < if drop 1 else dup 1- recurse swap 2 - recurse + then ; : job 10 0 do i 27 + fib . cr loop ; job bye'`,
	},
	{
		name: "gawk", needs: []string{"gawk=gawk"}, setup: texts,
		command: `exec gawk '{ for (i = 1; i < length; i += 4) n[substr($0, i, 2)]++ } NR % 50000 == 0 { print NR, length(n) } END { PROCINFO["sorted_in"] = "@ind_str_asc"; for (k in n) print k, n[k] }' ../in/t.txt`,
	},
	{
		name: "mawk", needs: []string{"mawk=mawk"}, setup: texts,
		command: `exec mawk '{ for (i = 1; i < length; i += 4) n[substr($0, i, 2)]++ } NR % 50000 == 0 { print NR } END { s = 0; for (k in n) s += n[k]; print s }' ../in/t.txt`,
	},
	{
		name: "bc", needs: []string{"bc=bc"},
		command: `exec bc -l <<<'scale = 500; for (i = 1; i < 40; i++) { a(1 / i) * e(1 / i) }'`,
	},
	{
		name: "dc", needs: []string{"dc=dc"},
		command: `exec dc -e '[3 lk^ Z p 7 lk^ 1 9 40^+ % p lk 9000+sk lk 100000>x]sx 20000sk lxx'`,
	},
}
