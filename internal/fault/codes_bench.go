package fault

// Codes about benchmarks.
const (
	Bench       Code = "E_BENCH"
	BenchTarget Code = "E_BENCH_TARGET"
)

var benchCodes = []Entry{
	{Bench, Failed, "a measurement failed", "A snapshot, a restore, a watch or a test process of the benchmark did not do what it should.", "read the cause; `bpfckpt check` tells what this kernel can do"},
	{
		BenchTarget, Failed, "a target was missed",
		"The benchmark ran with --strict, and a median does not keep its target.",
		"look at the report; on a machine that does nothing else, figures are steadier",
	},
}
