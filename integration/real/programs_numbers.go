package main

// cnf writes a random 3-SAT problem in the form of DIMACS: $1 variables, $2 clauses, $3 for another one.
const cnf = `cnf() {
	awk -v n="$1" -v m="$2" -v seed="$3" 'BEGIN { srand(seed); print "p cnf", n, m
		for (i = 0; i < m; i++) { for (k = 0; k < 3; k++) printf "%d ", (rand() < .5 ? -1 : 1) * (1 + int(rand() * n)); print 0 } }'
}
`

// split is a market split problem in GMPL: small, and long to solve.
const split = `param n := 22;
set I := 1..n;
param w{i in I, k in 1..3} := floor(Uniform(0, 100));
param half{k in 1..3} := floor(0.5 * sum{i in I} w[i,k]);
var x{I} binary;
var over{1..3} >= 0;
var under{1..3} >= 0;
minimize off: sum{k in 1..3} (over[k] + under[k]);
s.t. split{k in 1..3}: sum{i in I} w[i,k] * x[i] + under[k] - over[k] = half[k];
end;
`

// numbers are programs for mathematics, science and games. Threads of OpenBLAS spin, which takes minutes where others
// work as well: it gets one.
var numbers = []program{
	{
		name: "numpy, scipy", needs: []string{
			"/usr/lib/python3/dist-packages/scipy=python3-scipy",
			"/usr/lib/python3/dist-packages/numpy=python3-numpy",
		},
		setup: `cat >job.py <<'END'
import numpy as np
from scipy import fft, integrate, linalg, optimize, sparse
from scipy.sparse.linalg import spsolve
rng = np.random.default_rng(4)
for i in range(14):
    a = rng.random((300, 300))
    w = linalg.eigvals(a)
    s = sparse.diags([1, -4.2, 1, 1, 1], [-1, 0, 1, -90, 90], shape=(8100, 8100), format="csc")
    x = spsolve(s, rng.random(8100))
    m = optimize.minimize(optimize.rosen, rng.random(12), method="Nelder-Mead", options={"maxiter": 3000}).fun
    print(i, np.abs(w).max().round(9), x.sum().round(9), abs(fft.fft(rng.random(1 << 18))).max().round(6), round(m, 9), flush=True)
np.save("x.npy", x)
END`,
		command: `OPENBLAS_NUM_THREADS=1 exec /usr/bin/python3 ../in/job.py`,
	},
	{
		name: "scikit-learn", needs: []string{"/usr/lib/python3/dist-packages/sklearn=python3-sklearn"},
		setup: `cat >job.py <<'END'
import pickle
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
x, y = make_classification(2000, 30, n_informative=12, random_state=4)
for seed in range(3):
    forest = RandomForestClassifier(30, random_state=seed).fit(x[:1500], y[:1500])
    boost = GradientBoostingClassifier(n_estimators=15, random_state=seed).fit(x[:1500], y[:1500])
    means = KMeans(6, n_init=3, random_state=seed).fit(x)
    print(seed, forest.score(x[1500:], y[1500:]), boost.score(x[1500:], y[1500:]), round(means.inertia_, 3), flush=True)
pickle.dump(forest, open("forest.pickle", "wb"))
END`,
		command: `OPENBLAS_NUM_THREADS=1 exec /usr/bin/python3 ../in/job.py`,
	},
	{
		name: "sympy", needs: []string{"/usr/lib/python3/dist-packages/sympy=python3-sympy"},
		setup: `cat >job.py <<'END'
from sympy import expand, factor, integrate, series, simplify, sin, cos, exp, symbols
x, y = symbols("x y")
for n in range(2, 14):
    print(n, factor(expand((x + y) ** n * (x - 2 * y) ** n)), integrate(x ** n * exp(x), x), series(sin(x) ** 2 * cos(n * x), x, 0, 9), flush=True)
END`,
		command: `PYTHONHASHSEED=0 exec /usr/bin/python3 ../in/job.py`,
	},
	{
		name: "pari-gp", needs: []string{"gp=pari-gp"},
		command: `exec gp -q -f -D parisize=64000000 <<<'setrand(4); for (j = 1, 30, for (i = 1, 8, print(i, " ", factor(2^(163 + 2 * i) - 1)[1, 1], " ", ellap(ellinit([i, 1]), nextprime(10^12)), " ", matdet(matrix(60, 60, a, b, (a * b + i) % 97)))))'`,
	},
	{
		name: "gap", needs: []string{"gap=gap-core"},
		setup: `cat >job.g <<'END'
for n in [5 .. 12] do
  g := SymmetricGroup(n);
  Print(n, " ", NrConjugacyClasses(g), " ", Size(SylowSubgroup(g, 2)), " ", Length(Filtered([1 .. 40000 * n], i -> IsPrimeInt(i * n + 1))), "\n");
od;
QUIT_GAP(0);
END`,
		command: `exec gap -q -A -T ../in/job.g`,
	},
	{
		name: "z3", needs: []string{"z3=z3"},
		setup:   cnf + `cnf 250 1070 5 >p.cnf`,
		command: `exec z3 -dimacs sat.random_seed=4 ../in/p.cnf`,
	},
	{
		name: "minisat", needs: []string{"minisat=minisat"}, status: 20,
		setup:   cnf + `cnf 260 1140 5 >p.cnf`,
		command: `exec minisat -verb=0 ../in/p.cnf answer.txt >../told`,
	},
	{
		name: "cadical", needs: []string{"cadical=cadical"}, status: 20,
		setup:   cnf + `cnf 280 1230 5 >p.cnf`,
		command: `exec cadical -q ../in/p.cnf proof.drat`,
	},
	{
		name: "clasp", needs: []string{"clasp=clasp"}, status: 20,
		setup:   cnf + `cnf 265 1170 5 >p.cnf`,
		command: `exec clasp -V0 -t 1 ../in/p.cnf`,
	},
	{
		name: "glpk", needs: []string{"glpsol=glpk-utils"},
		setup: `cat >p.mod <<'END'
` + split + `END`,
		command: `for s in 4 5 6 7 8 9 10 11; do glpsol --seed $s --math ../in/p.mod --write answer.$s.txt; done >../told`,
	},
	{
		name: "cbc", needs: []string{"cbc=coinor-cbc", "glpsol=glpk-utils"},
		setup: `cat >p.mod <<'END'
` + split + `END
glpsol --seed 4 --check --math p.mod --wfreemps p.mps`,
		command: `exec cbc ../in/p.mps -threads 1 solve solution answer.txt >../told`,
	},
	{
		name: "primesieve", needs: []string{"primesieve=primesieve"},
		command: `exec primesieve 1 16000000000 -t 2 -q -c -c2`,
	},
	{
		name: "stockfish", needs: []string{"/usr/games/stockfish=stockfish"},
		command: `stockfish bench 16 1 13 default depth 2>../told | grep bestmove`,
	},
	{
		name: "hmmer", needs: []string{"hmmbuild=hmmer"},
		setup: `awk 'BEGIN { srand(4); split("A C D E F G H I K L M N P Q R S T V W Y", a, " ")
			print "# STOCKHOLM 1.0\n"; for (k = 0; k < 120; k++) base[k] = a[1 + int(rand() * 20)]
			for (i = 0; i < 12; i++) { printf "s%d ", i; for (k = 0; k < 120; k++) printf "%s", rand() < .7 ? base[k] : a[1 + int(rand() * 20)]; print "" } print "//" }' >p.sto
			awk 'BEGIN { srand(5); split("A C D E F G H I K L M N P Q R S T V W Y", a, " "); for (i = 0; i < 500000; i++) { print ">q" i; for (k = 0; k < 300; k++) printf "%s", a[1 + int(rand() * 20)]; print "" } }' >q.fa
			hmmbuild p.hmm p.sto`,
		command: `hmmsearch --cpu 2 --seed 4 -E 1000 --tblout ../hits ../in/p.hmm ../in/q.fa >../told; grep -v "^#" ../hits >hits.txt`,
	},
	{
		name: "bwa", needs: []string{"bwa=bwa"},
		setup:   `awk 'BEGIN { srand(4); print ">g"; for (i = 0; i < 12000; i++) { for (k = 0; k < 500; k++) printf "%s", substr("ACGT", 1 + int(rand() * 4), 1); print "" } }' >g.fa`,
		command: `cp ../in/g.fa .; exec bwa index g.fa`,
	},
}
