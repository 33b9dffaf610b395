package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

var ms = Metric{Name: "time", Unit: "ms"}

// sample is an experiment whose outcome is known: the tool takes twice the yardstick, and a third tool fails.
func sample(order *[]string) Experiment {
	variant := func(name string, role Role, value float64) Variant {
		n := 0.0
		return Variant{name, role, func(_ context.Context, r *Recorder) error {
			*order = append(*order, name)
			n++
			r.Record("one", ms, value+n)
			r.Record("two", ms, 100*value)
			return nil
		}}
	}
	return Experiment{
		Name: "sample", Note: "An example.",
		Variants: []Variant{
			variant("bare", Yardstick, 100), variant("us", Measured, 200),
			{"them", Other, func(context.Context, *Recorder) error { return errors.New("no <kernel> support") }},
		},
		Targets: []Target{
			{Case: "one", Metric: "time", Of: OfRatio, Max: 1.5},
			{Case: "two", Metric: "time", Max: 30000},
		},
	}
}

func runSample(t *testing.T) (*Report, []string) {
	t.Helper()
	var order []string
	rep, err := Runner{Rounds: 3}.Run(t.Context(),
		&Plan{Title: "sample report", Experiments: []Experiment{sample(&order)}})
	if err != nil {
		t.Fatal(err)
	}
	return rep, order
}

func TestRunner(t *testing.T) {
	rep, order := runSample(t)
	if want := []string{"bare", "us", "us", "bare", "bare", "us", "bare", "us"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	e := rep.Experiments[0]
	if len(e.Rows) != 4 || len(e.Failures) != 1 {
		t.Fatalf("rows %+v failures %v", e.Rows, e.Failures)
	}
	us := e.Rows[1]
	if us.Variant != "us" || us.Stats.N != 3 || us.Stats.Median != 203 || math.Abs(us.Ratio-203.0/103) > 1e-9 {
		t.Errorf("got %+v", us)
	}
	if us.Extra != 100 || us.Target == nil || us.Target.Met || rep.TargetsMet || len(rep.Missed()) != 1 {
		t.Errorf("target %+v, met %v, missed %v", us.Target, rep.TargetsMet, rep.Missed())
	}
	if two := e.Rows[3]; two.Target == nil || !two.Target.Met {
		t.Errorf("two: %+v", two.Target)
	}
}

func TestRunnerEndsOnOurOwnFailure(t *testing.T) {
	boom, cleaned := errors.New("boom"), false
	_, err := Runner{}.Run(t.Context(), &Plan{Experiments: []Experiment{{
		Name:     "x",
		Setup:    func(context.Context) (func(), error) { return func() { cleaned = true }, nil },
		Variants: []Variant{{"us", Measured, func(context.Context, *Recorder) error { return boom }}},
	}}})
	if !errors.Is(err, boom) || !cleaned {
		t.Errorf("err %v, cleaned %v", err, cleaned)
	}
}

func TestSlowVariantsRunOnce(t *testing.T) {
	runs := map[string]int{}
	variant := func(name string) Variant {
		return Variant{name, Other, func(_ context.Context, r *Recorder) error {
			runs[name]++
			r.Record("x", ms, 1)
			return nil
		}}
	}
	e := Experiment{Variants: []Variant{variant("quick"), variant("slow")}, Once: []string{"slow"}}
	rep, err := Runner{Rounds: 3}.Run(t.Context(), &Plan{Experiments: []Experiment{e}})
	if err != nil {
		t.Fatal(err)
	}
	if runs["quick"] != 4 || runs["slow"] != 1 || rep.Experiments[0].Rows[1].Stats.N != 1 {
		t.Errorf("runs %v, rows %+v", runs, rep.Experiments[0].Rows)
	}
}

func TestStats(t *testing.T) {
	got := statsOf([]float64{9, 1, 3, 100, 4})
	want := Stats{N: 5, Median: 4, MAD: 3, Q1: 3, Q3: 9, Min: 1, Max: 100}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := statsOf([]float64{1, 2}); got.Median != 1.5 {
		t.Errorf("median of two: %+v", got)
	}
}

func TestJSONReadsBack(t *testing.T) {
	rep, _ := runSample(t)
	var b bytes.Buffer
	if err := rep.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	dec := json.NewDecoder(&b)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&back); err != nil {
		t.Fatal(err)
	}
	if len(back.Experiments) != 1 || back.Experiments[0].Rows[1].Stats.Median != 203 {
		t.Errorf("got %+v", back)
	}
}

func TestTable(t *testing.T) {
	rep, _ := runSample(t)
	var b bytes.Buffer
	if err := rep.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"time  us      203 ms  1    202 ms  1.97 x    +100 ms   1.962 to 1.980 x  1.50 x missed", "30000 ms met", "failed: them: no <kernel> support"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestHTML checks that the page is well-formed, needs nothing from elsewhere, and escapes what it is given.
func TestHTML(t *testing.T) {
	rep, _ := runSample(t)
	var b bytes.Buffer
	if err := rep.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, banned := range []string{"http:", "https:", "<script", "src=", "ZgotmplZ", "NaN", "<kernel>"} {
		if strings.Contains(text, banned) {
			t.Errorf("the page has %q", banned)
		}
	}
	for i, part := range strings.Split(text, "<svg ")[1:] {
		svg := "<svg " + part[:strings.Index(part, "</svg>")] + "</svg>"
		dots := 0
		dec := xml.NewDecoder(strings.NewReader(svg))
		for {
			tok, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("plot %d: %v\n%s", i, err, svg)
			}
			if el, ok := tok.(xml.StartElement); ok && el.Name.Local == "circle" {
				dots++
			}
		}
		if dots != 12 {
			t.Errorf("plot %d: %d dots, want 12", i, dots)
		}
	}
}

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "ms", "0.00 ms"},
		{1234.5, "us", "1234 us"},
		{12.34, "ms", "12.3 ms"},
		{0.01234, "ms", "0.0123 ms"},
		{3 << 30, "bytes", "3.00 GiB"},
		{100, "bytes", "100 B"},
	} {
		if got := quantity(c.v, c.unit); got != c.want {
			t.Errorf("%v %s: got %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestScale(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		unit   string
		want   []float64
		log    bool
	}{
		{10, 100, "ms", []float64{0, 20, 40, 60, 80, 100}, false},
		{3, 5000, "ms", []float64{1, 10, 100, 1000, 10000}, true},
		{1 << 20, 1 << 20, "bytes", []float64{0, 256 << 10, 512 << 10, 768 << 10, 1 << 20}, false},
		{1 << 10, 1 << 20, "bytes", []float64{1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20}, true},
	} {
		s := scaleOf([]Row{{Stats: Stats{Min: c.lo, Max: c.hi}}}, c.unit)
		if got := s.ticks(); s.log != c.log || !slices.Equal(got, c.want) {
			t.Errorf("%v to %v %s: log %v, ticks %v, want %v", c.lo, c.hi, c.unit, s.log, got, c.want)
		}
		if x := s.x(c.hi); x <= plotLeft || x > plotRight {
			t.Errorf("%v is drawn at %v", c.hi, x)
		}
	}
	if s := scaleOf([]Row{{}}, "ms"); s.x(0) != plotLeft {
		t.Errorf("nothing: %+v", s)
	}
}

// TestInterval holds intervals against the ranks of tables of the sign test.
func TestInterval(t *testing.T) {
	for n, want := range map[int]Interval{
		1: {1, 1}, 5: {1, 5}, 6: {1, 6}, 8: {1, 8}, 9: {2, 8}, 15: {4, 12}, 25: {8, 18}, 100: {40, 61},
	} {
		var samples []float64
		for i := range n {
			samples = append(samples, float64(n-i))
		}
		if got := interval(samples); got != want {
			t.Errorf("of %d samples: %v, not %v", n, got, want)
		}
	}
	if got := interval(nil); got != (Interval{}) {
		t.Errorf("of none: %v", got)
	}
}

// TestTargets holds figures against targets that they keep or miss for certain, or within noise.
func TestTargets(t *testing.T) {
	base := []float64{100, 102, 98, 101, 99, 100}
	for _, c := range []struct {
		name    string
		samples []float64
		target  Target
		want    string
	}{
		{"a ratio, kept", []float64{101, 103, 99, 102, 100, 101}, Target{Of: OfRatio, Max: 1.05}, "1.05 x met"},
		{"missed", []float64{111, 113, 109, 112, 110, 111}, Target{Of: OfRatio, Max: 1.05}, "1.05 x missed"},
		{
			"kept, perhaps",
			[]float64{99, 112, 99, 102, 100, 101},
			Target{Of: OfRatio, Max: 1.05},
			"1.05 x met within noise",
		},
		{
			"missed, perhaps",
			[]float64{110, 112, 108, 111, 100, 110},
			Target{Of: OfRatio, Max: 1.05},
			"1.05 x missed within noise",
		},
		{
			"an extra for each of two",
			[]float64{110, 112, 108, 111, 109, 110},
			Target{Of: OfExtra, Max: 6, Per: 2},
			"+6.00 in each of 2 calls met",
		},
		{
			"more, as much as noise",
			[]float64{101, 103, 99, 102, 100, 101},
			Target{Of: OfExtra, Noise: true},
			"no more than noise met",
		},
		{
			"more than noise",
			[]float64{104, 106, 102, 105, 103, 104},
			Target{Of: OfExtra, Noise: true},
			"no more than noise missed",
		},
	} {
		yardstick, us := &Variant{Name: "bare", Role: Yardstick}, &Variant{Name: "us", Role: Measured}
		c.target.Metric = "time"
		e := &Experiment{Variants: []Variant{*yardstick, *us}, Targets: []Target{c.target}}
		r := &Recorder{}
		for i, samples := range [][]float64{base, c.samples} {
			r.series = append(r.series, &series{
				variant: &e.Variants[i], metric: Metric{Name: "time"},
				samples: samples,
			})
		}
		row := r.row(e, r.series[1])
		if got := targetText(row); got != c.want {
			t.Errorf("%s: %q, not %q; %+v", c.name, got, c.want, row.Within)
		}
	}
}
