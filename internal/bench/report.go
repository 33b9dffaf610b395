package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Report is everything a run found.
type Report struct {
	Title       string             `json:"title"`
	Version     string             `json:"version"` // of the tool, set by the caller
	Started     time.Time          `json:"started"`
	TookMS      int64              `json:"took_ms"`
	Machine     Machine            `json:"machine"`
	Experiments []ExperimentResult `json:"experiments"`
	Notes       []string           `json:"notes,omitempty"` // what the reader must know: what was left out, and why
	TargetsMet  bool               `json:"targets_met"`     // of all rows that have one
}

// ExperimentResult is one experiment's part of a report.
type ExperimentResult struct {
	Name     string   `json:"name"`
	Note     string   `json:"note"`
	Rounds   int      `json:"rounds"`
	Rows     []Row    `json:"rows"`
	Failures []string `json:"failures,omitempty"` // of other tools
}

// Row is one variant's values of one metric in one case.
type Row struct {
	Case    string `json:"case"`
	Variant string `json:"variant"`
	Role    Role   `json:"role"`
	Metric  Metric `json:"metric"`
	Stats   Stats  `json:"stats"`
	// median over the rounds of the quotient by the yardstick, 0 if there is none
	Ratio float64 `json:"ratio,omitempty"`
	// median over the rounds of the difference from the yardstick, 0 if there is none
	Extra   float64   `json:"extra,omitempty"`
	Within  *Within   `json:"within,omitempty"`
	Target  *Limit    `json:"target,omitempty"`
	Samples []float64 `json:"samples"`
}

// Within is how sure the figures of a row are: intervals of 95%, or of all rounds where they are fewer than six.
type Within struct {
	Value Interval `json:"value"`
	Ratio Interval `json:"ratio"`
	Extra Interval `json:"extra"`
}

// Limit is a target and whether it was kept.
type Limit struct {
	Of    Measure `json:"of"`
	Max   float64 `json:"max"`
	Per   float64 `json:"per,omitempty"`
	Noise bool    `json:"noise,omitempty"` // no more than noise is allowed
	Met   bool    `json:"met"`
	Clear bool    `json:"clear"` // the whole interval says so
}

func newReport(title string) *Report {
	return &Report{Title: title, Started: time.Now().UTC(), Machine: thisMachine(), TargetsMet: true}
}

func (r *Report) finish() {
	r.TookMS = time.Since(r.Started).Milliseconds()
	r.Machine.LoadAfter = loadAverage()
	for _, row := range r.rows() {
		if row.Target != nil && !row.Target.Met {
			r.TargetsMet = false
		}
	}
}

func (r *Report) rows() []Row {
	var all []Row
	for _, e := range r.Experiments {
		all = append(all, e.Rows...)
	}
	return all
}

// Missed returns a line for every row that does not keep its target.
func (r *Report) Missed() []string {
	var lines []string
	for _, e := range r.Experiments {
		for _, row := range e.Rows {
			if row.Target != nil && !row.Target.Met {
				lines = append(lines, fmt.Sprintf("%s: %s, %s: %s, target %s", e.Name, row.Case, row.Variant,
					row.value(), row.Target.text(row.Metric.Unit)))
			}
		}
	}
	return lines
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// result turns what was recorded into rows: by case in the order they first came, then metric, then variant as
// declared.
func (r *Recorder) result(e *Experiment, rounds int, failed map[string]error) ExperimentResult {
	res := ExperimentResult{Name: e.Name, Note: e.Note, Rounds: rounds}
	for i := range e.Variants {
		if err := failed[e.Variants[i].Name]; err != nil {
			res.Failures = append(res.Failures, fmt.Sprintf("%s: %v", e.Variants[i].Name, err))
		}
	}
	var cases []string
	var metrics []Metric
	for _, s := range r.series {
		if !slices.Contains(cases, s.kase) {
			cases = append(cases, s.kase)
		}
		if !slices.Contains(metrics, s.metric) {
			metrics = append(metrics, s.metric)
		}
	}
	for _, kase := range cases {
		for _, m := range metrics {
			for i := range e.Variants {
				if s := r.find(&e.Variants[i], kase, m); s != nil {
					res.Rows = append(res.Rows, r.row(e, s))
				}
			}
		}
	}
	return res
}

func (r *Recorder) find(v *Variant, kase string, m Metric) *series {
	for _, s := range r.series {
		if s.variant == v && s.kase == kase && s.metric == m {
			return s
		}
	}
	return nil
}

func (r *Recorder) row(e *Experiment, s *series) Row {
	row := Row{
		Case: s.kase, Variant: s.variant.Name, Role: s.variant.Role, Metric: s.metric, Stats: statsOf(s.samples),
		Samples: s.samples,
	}
	if s.variant.Role == Yardstick {
		return row
	}
	row.Within = &Within{Value: interval(s.samples)}
	var base Stats
	if y := r.yardstick(e, s); y != nil {
		base = statsOf(y.samples)
		var quotients, differences []float64
		for i := range min(len(y.samples), len(s.samples)) {
			differences = append(differences, s.samples[i]-y.samples[i])
			if y.samples[i] > 0 {
				quotients = append(quotients, s.samples[i]/y.samples[i])
			}
		}
		row.Ratio, row.Within.Ratio = statsOf(quotients).Median, interval(quotients)
		row.Extra, row.Within.Extra = statsOf(differences).Median, interval(differences)
	}
	if s.variant.Role == Measured {
		row.Target = e.target(&row, base)
	}
	return row
}

// yardstick finds the series that s is held against, nil if there is none.
func (r *Recorder) yardstick(e *Experiment, s *series) *series {
	for i := range e.Variants {
		if e.Variants[i].Role == Yardstick {
			if y := r.find(&e.Variants[i], s.kase, s.metric); y != nil {
				return y
			}
		}
	}
	return nil
}

// target holds a row against the target it has, if any; base is its yardstick.
func (e *Experiment) target(row *Row, base Stats) *Limit {
	for _, t := range e.Targets {
		if t.Metric != row.Metric.Name || t.Case != "" && t.Case != row.Case || t.Variant != "" &&
			t.Variant != row.Variant {
			continue
		}
		if t.Of != OfValue && t.Of != "" && row.Ratio == 0 {
			continue // there is no yardstick
		}
		l := &Limit{Of: t.Of, Max: t.Max, Per: t.Per, Noise: t.Noise}
		median, in, limit := row.Stats.Median, row.Within.Value, t.Max
		switch t.Of {
		case OfRatio:
			median, in = row.Ratio, row.Within.Ratio
		case OfExtra:
			median, in, limit = row.Extra, row.Within.Extra, t.Max*max(t.Per, 1)
		default:
			l.Of = OfValue
		}
		if t.Noise {
			median, limit = in.Low, limit+base.MAD
		}
		l.Met, l.Clear = median <= limit, t.Noise || in.High <= limit || in.Low > limit
		return l
	}
	return nil
}

func (row Row) value() string {
	text := row.Metric.Name + " " + quantity(row.Stats.Median, row.Metric.Unit)
	if row.Ratio != 0 {
		text += fmt.Sprintf(" (%s, %s)", ratioText(row), extraText(row))
	}
	return text
}

func (l Limit) text(unit string) string {
	switch {
	case l.Noise && l.Max == 0:
		return "no more than noise"
	case l.Of == OfRatio:
		return fmt.Sprintf("%.2f x", l.Max)
	case l.Of == OfExtra && l.Per > 1:
		return fmt.Sprintf("+%s in each of %.0f calls", quantity(l.Max, unit), l.Per)
	case l.Of == OfExtra:
		return "+" + quantity(l.Max, unit)
	}
	return quantity(l.Max, unit)
}

// quantity writes a value with three significant digits and its unit.
func quantity(v float64, unit string) string {
	if unit == "bytes" {
		for _, u := range []struct {
			name string
			size float64
		}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
			if v >= u.size {
				return significant(v/u.size) + " " + u.name
			}
		}
		return fmt.Sprintf("%.0f B", v)
	}
	return strings.TrimSpace(significant(v) + " " + unit)
}

func significant(v float64) string {
	switch a := max(v, -v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1 || a == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
