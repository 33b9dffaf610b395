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
	st := Stats{N: len(s), Median: quantile(s, 0.5), Q1: quantile(s, 0.25), Q3: quantile(s, 0.75), Min: s[0], Max: s[len(s)-1]}
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
