package bench

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// WriteTable writes the report for a terminal.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s, Linux %s, %s, %d CPUs, load %.1f to %.1f\n", r.Title, m.Kernel, m.CPU, m.CPUs, m.LoadBefore,
		m.LoadAfter)
	for i := range r.Experiments {
		r.Experiments[i].table(&b)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "\nnote: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// table writes one line per case and metric group: the variants below each other, so that lines stay short.
func (e *ExperimentResult) table(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s (median of %d rounds ± median deviation)\n", e.Name, e.Rounds)
	lines := [][]string{{"", "", "", "median", "±", "best", "ratio", "extra", "interval", "target"}}
	last := ""
	for _, row := range e.Rows {
		if row.Metric.Detail {
			continue
		}
		label := row.Case
		if label == last {
			label = ""
		}
		last = row.Case
		lines = append(lines, []string{
			label, row.Metric.Name, row.Variant, quantity(row.Stats.Median, row.Metric.Unit), spread(row),
			quantity(row.Stats.Min, row.Metric.Unit), ratioText(row), extraText(row), intervalText(row),
			targetText(row),
		})
	}
	align(b, lines)
	for _, f := range e.Failures {
		fmt.Fprintf(b, "  failed: %s\n", f)
	}
}

// scaled brings a deviation to the unit quantity chose for the median.
func scaled(v float64, row Row) float64 {
	if row.Metric.Unit != "bytes" {
		return v
	}
	for _, size := range []float64{1 << 30, 1 << 20, 1 << 10} {
		if row.Stats.Median >= size {
			return v / size
		}
	}
	return v
}

// spread writes the deviation with as many decimals as the median has.
func spread(row Row) string {
	median, mad := scaled(row.Stats.Median, row), scaled(row.Stats.MAD, row)
	_, decimals, _ := strings.Cut(significant(median), ".")
	if strings.Contains(decimals, "e") {
		return significant(mad)
	}
	return strconv.FormatFloat(mad, 'f', len(decimals), 64)
}

func ratioText(row Row) string {
	if row.Ratio == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f x", row.Ratio)
}

func extraText(row Row) string {
	if row.Ratio == 0 {
		return ""
	}
	return signed(row.Extra, row.Metric.Unit)
}

func signed(v float64, unit string) string {
	sign := "+"
	if v < 0 {
		sign = "-"
	}
	return sign + quantity(max(v, -v), unit)
}

// intervalText is how sure the figure is that the target is about, or how much more it is than the yardstick.
func intervalText(row Row) string {
	switch w := row.Within; {
	case w == nil || row.Stats.N < 2:
		return ""
	case row.Target != nil && row.Target.Of == OfRatio:
		return fmt.Sprintf("%.3f to %.3f x", w.Ratio.Low, w.Ratio.High)
	case row.Target != nil && row.Target.Of == OfValue:
		return span(quantity(w.Value.Low, row.Metric.Unit), quantity(w.Value.High, row.Metric.Unit))
	case row.Ratio != 0:
		return span(signed(w.Extra.Low, row.Metric.Unit), signed(w.Extra.High, row.Metric.Unit))
	}
	return ""
}

// span writes two quantities, with the unit once if they share it.
func span(low, high string) string {
	if _, unit, ok := strings.Cut(high, " "); ok {
		low = strings.TrimSuffix(low, " "+unit)
	}
	return low + " to " + high
}

func targetText(row Row) string {
	if row.Target == nil {
		return ""
	}
	verdict := "missed"
	if row.Target.Met {
		verdict = "met"
	}
	if !row.Target.Clear {
		verdict += " within noise"
	}
	return row.Target.text(row.Metric.Unit) + " " + verdict
}

// leftColumns are names; the rest are numbers and line up at their right ends.
const leftColumns = 3

func align(b *strings.Builder, lines [][]string) {
	width := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, c := range l {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, l := range lines {
		line := ""
		for i, c := range l {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if i < leftColumns || i == len(l)-1 {
				line += "  " + c + pad
			} else {
				line += "  " + pad + c
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
