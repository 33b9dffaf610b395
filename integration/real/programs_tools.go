package main

// tools are shells with what they start, and small tools.
var tools = []program{
	{
		name: "bash", needs: []string{"bash=bash"},
		command: `for ((r = 0; r < 24; r++)); do s=0; for ((i = 0; i < 40000; i++)); do ((s = (s * 31 + i) % 1000003)); done; echo $r $s; done`,
	},
	{
		name: "bash, children and pipes", needs: []string{"bash=bash"},
		command: `trap 'echo caught' USR1; for r in 1 2 3 4 5 6 7 8; do seq 1 30000 | while read -r n; do echo $((n % 977)); done | sort -n | uniq -c | sort -rn | head -n 3; echo "round $r"; done`,
	},
	{
		name: "bash, coproc", needs: []string{"bash=bash", "bc=bc"},
		command: `coproc BC { exec bc; }; for ((i = 1; i < 50000; i++)); do echo "$i^7 % 1000003" >&"${BC[1]}"; read -r x <&"${BC[0]}"; ((s = (s * 31 + x) % 1000003)); ((i % 5000)) || echo $i $s; done; exec {BC[1]}>&-; wait`,
	},
	{
		name: "dash", needs: []string{"dash=dash"},
		setup:   `printf '%s\n' 'r=0; while [ $r -lt 12 ]; do s=0; i=0; while [ $i -lt 120000 ]; do s=$(((s * 31 + i) % 1000003)); i=$((i + 1)); done; echo $r $s; r=$((r + 1)); done' >job.sh`,
		command: `exec dash ../in/job.sh`,
	},
	{
		name: "xargs -P3", needs: []string{"xargs=findutils"},
		command: `seq 1 30 | exec xargs -P3 -I{} bash -c 's=0; for ((i = 0; i < 60000; i++)); do ((s = (s * 31 + i) % 1000003)); done; echo {} $s >r{}'`,
	},
	{
		name: "find", needs: []string{"find=findutils"},
		setup:   `mkdir -p d && cd d && for i in $(seq 60); do mkdir $i; (cd $i && seq 500 | xargs touch -d 2020-01-01); done`,
		command: `for i in $(seq 90); do find ../in/d -type f -name '*7*' -printf '%p %s %TY\n' | sort >found$i; done`,
	},
	{
		name: "sed", needs: []string{"sed=sed"}, setup: texts + `head -c 8000000 t.txt >s.txt`,
		command: `exec sed -E 's/([a-z]+)([0-9]+)/\2-\1/g; s/(.)\1/<\1>/g; y/abc/xyz/' ../in/s.txt`,
	},
	{
		name: "grep", needs: []string{"grep=grep"}, setup: texts + `head -c 1500000 t.txt >s.txt`,
		command: `exec grep -E '([a-z]).*\1\1.*([0-9])\2' ../in/s.txt`,
	},
	{
		name: "jq", needs: []string{"jq=jq"},
		command: `exec jq -nc 'range(4) as $r | reduce range(200000) as $i ({s: $r}; .s = (.s * 31 + $i) % 1000003) | [$r, .s]'`,
	},
	{
		name: "sqlite3", needs: []string{"sqlite3=sqlite3"},
		setup: `cat >job.sql <<'END'
create table t (a integer, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 600000) insert into t select i * 7919 % 100003, 'row ' || i from n;
create index ta on t (a);
select a % 7, count(*), max(b), sum(length(b)) from t group by 1;
select count(*) from t x join t y on x.a = y.a where x.b < y.b;
update t set b = b || a where a % 3 = 0;
select sum(length(b)), min(b) from t;
END`,
		command: `exec sqlite3 data.db ".read ../in/job.sql"`,
	},
	{
		name: "python3 sqlite3", needs: []string{"/usr/bin/python3=python3"},
		setup: `cat >job.py <<'END'
import sqlite3
db = sqlite3.connect(":memory:")
db.execute("create table t (a integer primary key, b text)")
for r in range(12):
    db.executemany("insert into t (b) values (?)", ((hex(i * 7919 + r),) for i in range(60000)))
    print(r, db.execute("select count(*), max(b), sum(length(b)) from t").fetchone(), db.execute("select count(distinct substr(b, 3, 4)) from t").fetchone(), flush=True)
END`,
		command: `exec /usr/bin/python3 ../in/job.py`,
	},
}

// refusals are programs that hold what cannot be saved (yet): they are refused, and run on.
var refusals = []program{
	{
		name: "node", needs: []string{"node=nodejs"},
		setup: `cat >job.js <<'END'
const crypto = require("crypto"), fs = require("fs")
let r = 0
function step() {
  let h = ""
  for (let i = 0; i < 120000; i++) h = crypto.createHash("sha256").update(h + i).digest("hex")
  fs.writeSync(1, r + " " + h + "\n") // no file is opened anew after the moment that a run goes back to: its content would not go back
  if (++r < 14) setTimeout(step, 5)
}
step()
END`,
		command: `exec node ../in/job.js`,
	},
	{
		name: "erlang", needs: []string{"erl=erlang-base"}, refused: "E_",
		command: `exec erl -noshell -eval 'F = fun F(N) when N < 2 -> N; F(N) -> F(N - 1) + F(N - 2) end, [io:format("~p ~p~n", [I, F(24 + I rem 3)]) || I <- lists:seq(1, 14)], halt().'`,
	},
	{
		name: "gdb", needs: []string{"gdb=gdb", "gcc=gcc"}, refused: "E_",
		setup:   sieve + `gcc -O1 -g -o sieve sieve.c`,
		command: `exec gdb -q -nx -batch -ex 'set disable-randomization off' -ex run --args ../in/sieve 150 >../told`,
	},
	{
		name: "strace", needs: []string{"strace=strace", "gcc=gcc"}, refused: "E_",
		setup:   sieve + `gcc -O1 -g -o sieve sieve.c`,
		command: `exec strace -f -o ../trace ../in/sieve 700`,
	},
	{
		name: "sockets", needs: []string{"/usr/bin/python3=python3"}, refused: "E_FD_SOCKET",
		setup: `cat >job.py <<'END'
import hashlib, socket, threading
server = socket.create_server(("127.0.0.1", 0))
def serve():
    c, _ = server.accept()
    while block := c.recv(65536):
        c.sendall(hashlib.sha256(block).digest())
threading.Thread(target=serve).start()
c = socket.create_connection(server.getsockname())
for r in range(12):
    for i in range(9000):
        c.sendall(b"%d %d" % (r, i))
        last = c.recv(32)
    print(r, last.hex(), flush=True)
c.close()
END`,
		command: `exec /usr/bin/python3 ../in/job.py`,
	},
}
