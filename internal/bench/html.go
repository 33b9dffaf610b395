package bench

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
)

//go:embed report.html.tmpl
var pageSource string

var page = template.Must(template.New("report").Parse(pageSource))

// WriteHTML writes the report as one page that needs nothing else: styles and plots are inside it, and there is no
// script.
func (r *Report) WriteHTML(w io.Writer) error {
	data := struct {
		*Report
		Sections []section
		Missed   []string
		When     string
		Took     string
	}{
		Report: r, Missed: r.Missed(), When: r.Started.Format("2006-01-02 15:04 UTC"),
		Took: fmt.Sprintf("%.0f s", float64(r.TookMS)/1000),
	}
	for i := range r.Experiments {
		data.Sections = append(data.Sections, newSection(&r.Experiments[i]))
	}
	return page.Execute(w, data)
}

// section is one experiment on the page.
type section struct {
	ExperimentResult
	Plots []plot
	Table []tableRow
}

type tableRow struct {
	Case, Metric, Variant, Median, Spread, Best, Ratio, Extra, Interval, Target string
	Role                                                                        Role
	Missed                                                                      bool
	First                                                                       bool // of its case
}

// plot is one metric of an experiment: a line for each case and variant, samples as dots on a common scale.
type plot struct {
	Title         string
	Width, Height float64
	Left, Right   float64 // the area of the values
	AxisY         float64
	Ticks         []tick
	Lines         []plotLine
	Log           bool
}

type tick struct {
	X     float64
	Label string
}

// plotLine is one row of the plot. Coordinates are in the SVG's own units.
type plotLine struct {
	Y          float64
	Heading    string // the case, above its first line
	HeadingY   float64
	Label      string
	Value      string
	Color      int
	Median     float64
	Q1, IQR    float64
	Dots       []float64
	Limit      float64 // 0 if there is none
	LimitTitle string
}

const (
	plotWidth  = 900.0
	plotLeft   = 190.0
	plotRight  = 730.0
	lineHeight = 18.0
	headHeight = 22.0
	colors     = 7 // classes c0 to c6 of the page
)

func newSection(e *ExperimentResult) section {
	s := section{ExperimentResult: *e}
	var metrics []Metric
	variants := map[string]int{}
	last := ""
	for _, row := range e.Rows {
		if row.Metric.Detail {
			continue
		}
		if !slices.Contains(metrics, row.Metric) {
			metrics = append(metrics, row.Metric)
		}
		if _, ok := variants[row.Variant]; !ok {
			variants[row.Variant] = len(variants) % colors
		}
		s.Table = append(s.Table, tableRow{
			Case: row.Case, Metric: row.Metric.Name, Variant: row.Variant,
			Median: quantity(row.Stats.Median, row.Metric.Unit),
			Spread: spread(row), Best: quantity(row.Stats.Min, row.Metric.Unit), Ratio: ratioText(row),
			Extra: extraText(row), Interval: intervalText(row),
			Target: targetText(row), Role: row.Role, Missed: row.Target != nil &&
				!row.Target.Met, First: row.Case != last,
		})
		last = row.Case
	}
	for _, m := range metrics {
		s.Plots = append(s.Plots, newPlot(e, m, variants))
	}
	return s
}

func newPlot(e *ExperimentResult, m Metric, variants map[string]int) plot {
	var rows []Row
	for _, row := range e.Rows {
		if row.Metric == m {
			rows = append(rows, row)
		}
	}
	sc := scaleOf(rows, m.Unit)
	p := plot{Title: m.Name, Width: plotWidth, Left: plotLeft, Right: plotRight, Log: sc.log}
	y, last := 4.0, ""
	for _, row := range rows {
		line := plotLine{Label: row.Variant, Value: quantity(row.Stats.Median, m.Unit), Color: variants[row.Variant]}
		if row.Case != last {
			line.Heading, line.HeadingY = row.Case, y+headHeight-7
			y += headHeight
			last = row.Case
		}
		line.Y = y + lineHeight/2
		y += lineHeight
		line.Median, line.Q1 = sc.x(row.Stats.Median), sc.x(row.Stats.Q1)
		line.IQR = max(sc.x(row.Stats.Q3)-line.Q1, 1)
		for _, v := range row.Samples {
			line.Dots = append(line.Dots, sc.x(v))
		}
		if row.Target != nil && row.Target.Of == OfValue {
			line.Limit, line.LimitTitle = sc.x(row.Target.Max), "target "+row.Target.text(m.Unit)
		}
		if row.Ratio != 0 {
			line.Value += fmt.Sprintf(" (%.2f x)", row.Ratio)
		}
		p.Lines = append(p.Lines, line)
	}
	p.AxisY = y + 6
	p.Height = y + 26
	for _, v := range sc.ticks() {
		p.Ticks = append(p.Ticks, tick{X: sc.x(v), Label: quantity(v, m.Unit)})
	}
	return p
}

// scale maps values to the plot's width: linear from 0, or logarithmic when the values differ by more than a factor of
// logFrom.
type scale struct {
	lo, hi float64
	log    bool
	base   float64 // of the round numbers: 10, or 2 for bytes
}

const logFrom = 30

func scaleOf(rows []Row, unit string) scale {
	lo, hi, base := math.Inf(1), 0.0, 10.0
	if unit == "bytes" {
		base = 2
	}
	for _, row := range rows {
		values := []float64{row.Stats.Min, row.Stats.Max}
		if row.Target != nil && row.Target.Of == OfValue {
			values = append(values, row.Target.Max)
		}
		for _, v := range values {
			hi = max(hi, v)
			if v > 0 {
				lo = min(lo, v)
			}
		}
	}
	if hi <= 0 || math.IsInf(lo, 1) {
		return scale{0, 1, false, base}
	}
	if hi/lo > logFrom {
		power := func(v float64, round func(float64) float64) float64 {
			return math.Pow(base, round(math.Log(v)/math.Log(base)))
		}
		return scale{power(lo, math.Floor), power(hi, math.Ceil), true, base}
	}
	return scale{0, hi * 1.05, false, base}
}

func (s scale) x(v float64) float64 {
	at := (v - s.lo) / (s.hi - s.lo)
	if s.log {
		at = math.Log(max(v, s.lo)/s.lo) / math.Log(s.hi/s.lo)
	}
	return math.Round((plotLeft+min(max(at, 0), 1)*(plotRight-plotLeft))*10) / 10
}

// ticks are three to nine round values: powers of the base on a logarithmic scale, else multiples of one power or of a
// few times it.
func (s scale) ticks() []float64 {
	var out []float64
	if s.log {
		step := s.base
		for math.Log(s.hi/s.lo)/math.Log(step) > 8 {
			step *= s.base
		}
		for v := s.lo; v <= s.hi*1.001; v *= step {
			out = append(out, v)
		}
		return out
	}
	step := math.Pow(s.base, math.Floor(math.Log(s.hi/4)/math.Log(s.base)))
	if s.base == 10 {
		for _, f := range []float64{5, 2} {
			if s.hi/(step*f) >= 4 {
				step *= f
				break
			}
		}
	}
	for v := 0.0; v <= s.hi; v += step {
		out = append(out, v)
	}
	return out
}
