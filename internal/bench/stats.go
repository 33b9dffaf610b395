package bench

import (
	"math"
	"slices"
)

// Stats describes samples by ranks, which a few wild values do not move.
type Stats struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	MAD    float64 `json:"mad"` // median of the distances from the median
	Q1     float64 `json:"q1"`
	Q3     float64 `json:"q3"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// statsOf computes them; of no samples everything is 0.
func statsOf(samples []float64) Stats {
	if len(samples) == 0 {
		return Stats{}
	}
	s := slices.Sorted(slices.Values(samples))
	st := Stats{
		N: len(s), Median: quantile(s, 0.5), Q1: quantile(s, 0.25), Q3: quantile(s, 0.75), Min: s[0],
		Max: s[len(s)-1],
	}
	away := make([]float64, len(s))
	for i, v := range s {
		away[i] = math.Abs(v - st.Median)
	}
	slices.Sort(away)
	st.MAD = quantile(away, 0.5)
	return st
}

// quantile interpolates between the ranks of sorted samples (the common definition, R's type 7).
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// interval is where the median lies that ever more samples would have, with a confidence of 95%, whatever they are
// distributed like: between the ranks that so many coin tosses would seldom be outside of. Fewer than six samples do
// not tell it that surely; then it is all of them.
func interval(samples []float64) Interval {
	if len(samples) == 0 {
		return Interval{}
	}
	s := slices.Sorted(slices.Values(samples))
	n, k, below := len(s), 0, 0.0
	for k < n/2 {
		if below += tosses(n, k); below > 0.025 {
			break
		}
		k++
	}
	if k == 0 {
		return Interval{s[0], s[n-1]}
	}
	return Interval{s[k-1], s[n-k]}
}

// Interval is where a median lies.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// tosses is the probability of k heads in n tosses of a coin.
func tosses(n, k int) float64 {
	factorial := func(n int) float64 { v, _ := math.Lgamma(float64(n + 1)); return v }
	return math.Exp(factorial(n) - factorial(k) - factorial(n-k) - float64(n)*math.Ln2)
}
