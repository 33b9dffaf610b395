package main

// source defines source, which writes a large C file: $1 functions of loops and switches, and one that calls them all.
const source = `source() {
	awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) {
		printf "static unsigned f%d(unsigned x, unsigned *v) { for (unsigned i = 0; i < x; i++) switch ((x * %d + i) %% 5) {", i, i * 7 + 3
		for (k = 0; k < 5; k++) printf " case %d: v[i %% 16] = v[(i + %d) %% 16] * %du + (v[%d] >> %d); break;", k, k + i % 7, i * 31 + k, k, k + 1
		printf " } return v[x %% 16]; }\n" }
		printf "unsigned main_%s(unsigned x) { unsigned v[16] = {1, 2, 3}, s = 0;\n", n
		for (i = 0; i < n; i++) printf "s += f%d(x %% %d + 1, v);\n", i, i + 2
		printf "return s; }\n" }'
}
`

// sieve writes sieve.c: rounds of work on memory that comes and goes. With PAD it makes an executable of another size.
const sieve = `cat >sieve.c <<'END'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
	int rounds = argc > 1 ? atoi(argv[1]) : 1;
	for (int r = 0; r < rounds; r++) {
		int n = 3000000 + r * 1000, count = 0, *next = malloc(n * sizeof *next);
		char *not = calloc(n, 1);
		for (int i = 2; i < n; i++) {
			if (not[i]) continue;
			next[count++] = i;
			for (long k = (long)i * i; k < n; k += i) not[k] = 1;
		}
		printf("%d %d %d\n", r, count, next[count - 1]);
		fflush(stdout);
		free(not);
		free(next);
	}
#ifdef PAD
	static volatile char pad[PAD] = {1};
	printf("another build %d\n", pad[0]);
#endif
	return 0;
}
END
`

// compilers are compilers at work, and what they make.
var compilers = []program{
	{
		name: "gcc", needs: []string{"gcc=gcc"},
		setup:   source + `source 150 >big.c`,
		command: `exec gcc -O2 -S -o big.s ../in/big.c`,
	},
	{
		name: "make -j2", needs: []string{"make=make", "gcc=gcc"},
		setup: source + `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do source $((12 + i)) >part$i.c; done
			printf 'all: $(patsubst %%,part%%.o,1 2 3 4 5 6 7 8 9 10 11 12)\n\tcat $^ >all.o\n%%.o: ../in/%%.c\n\tgcc -O2 -c -o $@ $<\n' >Makefile`,
		command: `exec make -f ../in/Makefile -j2`,
	},
	{
		name: "clang", needs: []string{"clang=clang"},
		setup:   source + `source 150 >big.c`,
		command: `exec clang -O2 -S -o big.s ../in/big.c`,
	},
	{
		name: "g++ OpenMP", needs: []string{"g++=g++"},
		setup: `cat >job.cc <<'END'
#include <cstdio>
#include <map>
#include <string>
#include <vector>
int main() {
	for (int r = 0; r < 8; r++) {
		std::vector<std::map<std::string, int>> part(8);
#pragma omp parallel for num_threads(4)
		for (int p = 0; p < 8; p++)
			for (unsigned i = 0, x = p + 1; i < 25000; i++) part[p][std::to_string((x = x * 1664525u + 1013904223u) >> 12)]++;
		std::map<std::string, int> all;
		for (auto &m : part) for (auto &[k, v] : m) all[k] += v;
		std::printf("%d %zu %s\n", r, all.size(), all.begin()->first.c_str());
		std::fflush(stdout);
	}
}
END
g++ -O2 -fopenmp -o job job.cc`,
		command: `exec ../in/job`,
	},
	{
		name: "gfortran", needs: []string{"gfortran=gfortran"},
		setup: `cat >job.f90 <<'END'
program job
  implicit none
  real(8), allocatable :: a(:,:), b(:,:)
  integer :: i, j
  allocate(a(700,700), b(700,700))
  a = reshape([(mod(i, 1009) / 1009d0, i = 1, 490000)], [700, 700])
  do j = 1, 12
    b = matmul(a, transpose(a)) / 700
    a = b / maxval(b)
    print '(i3, f20.12)', j, sum(a)
    flush(6)
  end do
  open(8, file='a.bin', form='unformatted'); write(8) a; close(8)
end program
END
gfortran -O1 -o job job.f90`,
		command: `exec ../in/job`,
	},
	{
		name: "go program", needs: []string{"go=golang-go"},
		setup: `cat >job.go <<'END'
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"
)

func main() {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		panic(err)
	}
	tick := time.NewTicker(time.Millisecond)
	ticks := 0
	go func() {
		for range tick.C {
			ticks++
			rand.Read(secret)
		}
	}()
	sums := make([][32]byte, 16)
	for r := range 12 {
		var wg sync.WaitGroup
		for i := range sums {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range 90000 {
					sums[i] = sha256.Sum256(append(sums[i][:], byte(i), byte(r)))
				}
			}()
		}
		wg.Wait()
		fmt.Printf("%d %x\n", r, sums)
	}
}
END
go build -o job job.go`,
		command: `exec ../in/job`,
	},
	{
		name: "go build", needs: []string{"go=golang-go"},
		setup: `mkdir -p m && cd m && printf 'module m\n' >go.mod && cat >m.go <<'END'
package main

import (
	"fmt"
	"strings"
)

func main() { fmt.Println(strings.ToUpper("a")) }
END`,
		command: `cd ../in/m; export GOCACHE=$TMPDIR/cache; exec go build -trimpath -buildvcs=false -o ../../run/m .`,
	},
	{
		name: "ocaml bytecode", needs: []string{"ocamlrun=ocaml-base", "ocamlc=ocaml-nox"},
		setup: `cat >job.ml <<'END'
module M = Map.Make (String)
let rec fib n = if n < 2 then n else fib (n - 1) + fib (n - 2)
let () =
  for r = 0 to 11 do
    let m = ref M.empty in
    for i = 1 to 60000 do m := M.add (string_of_int (i * 7919 mod 100003)) i !m done;
    Printf.printf "%d %d %d %s\n%!" r (fib (27 + r mod 3)) (M.cardinal !m) (fst (M.min_binding !m))
  done
END
ocamlc -o job job.ml`,
		command: `exec ocamlrun ../in/job`,
	},
	{
		name: "ghc program", needs: []string{"ghc=ghc"},
		setup: `cat >Job.hs <<'END'
import qualified Data.IntMap.Strict as M
import Data.List (foldl')
main :: IO ()
main = mapM_ step [1 .. 2]
  where
    step r = print (r :: Int, M.size (table r), sum (take 20 (M.elems (table r))))
    table r = foldl' (\m i -> M.insertWith (+) (i * 7919 * r ` + "`mod`" + ` 200003) i m) M.empty [1 .. 150000]
END
ghc -O0 -threaded -rtsopts -o job Job.hs`,
		command: `exec ../in/job +RTS -N2`,
	},
	{
		name: "runghc", needs: []string{"runghc=ghc"},
		setup: `cat >Job.hs <<'END'
main :: IO ()
main = mapM_ (\n -> print (n :: Int, length (filter prime [2 .. n]))) [2000, 4000 .. 36000]
  where prime k = all (\d -> k ` + "`mod`" + ` d /= 0) (takeWhile (\d -> d * d <= k) [2 ..])
END`,
		command: `exec runghc ../in/Job.hs`,
	},
	{
		name: "chicken", needs: []string{"csi=chicken-bin"},
		command: `exec csi -n -e '(begin (define (fib n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2))))) (do ((i 0 (+ i 1))) ((= i 18)) (print i " " (fib (+ 26 (modulo i 3)))) (flush-output)))'`,
	},
	{
		name: "valgrind", needs: []string{"valgrind=valgrind", "gcc=gcc"},
		setup:   sieve + `gcc -O1 -g -o sieve sieve.c`,
		command: `exec valgrind --log-file=../valgrind.log ../in/sieve 30`,
	},
	{
		name: "upgraded executable", needs: []string{"gcc=gcc"},
		setup:     sieve + `gcc -O1 -o old sieve.c; gcc -O2 -DPAD=300000 -o new sieve.c; cp old sieve`,
		command:   `cp ../in/old ../in/sieve; exec ../in/sieve 450`,
		meanwhile: `cp new next; mv next sieve`,
	},
	{
		name: "upgraded library", needs: []string{"gcc=gcc"},
		setup: sieve + `sed 's/main(/work(/' sieve.c >work.c; gcc -O1 -shared -fPIC -o old.so work.c; gcc -O2 -DPAD=300000 -shared -fPIC -o new.so work.c
			echo 'int work(int, char **); int main(int c, char **v) { return work(c, v); }' >main.c; cp old.so libwork.so; gcc -o job main.c ./libwork.so`,
		command:   `cp ../in/old.so ../in/next.so; mv ../in/next.so ../in/libwork.so; cp -r ../in/job .; LD_LIBRARY_PATH=../in:. ; cd ../in; exec ./job 450`,
		meanwhile: `cp new.so next.so; mv next.so libwork.so`,
	},
	{
		name: "qemu-user", needs: []string{"qemu-x86_64=qemu-user", "gcc=gcc"},
		setup:   sieve + `gcc -O1 -static -o sieve sieve.c`,
		command: `exec qemu-x86_64 ../in/sieve 130`,
	},
}
