package model

// Add returns the sum of two usages; MaxRSS is the larger one.
func (u Usage) Add(v Usage) Usage {
	return Usage{
		UTime: u.UTime + v.UTime, STime: u.STime + v.STime, Wall: u.Wall + v.Wall,
		MinFlt: u.MinFlt + v.MinFlt, MajFlt: u.MajFlt + v.MajFlt, InBlock: u.InBlock + v.InBlock,
		OuBlock: u.OuBlock + v.OuBlock,
		NVCSw:   u.NVCSw + v.NVCSw, NIvCSw: u.NIvCSw + v.NIvCSw, MaxRSS: max(u.MaxRSS, v.MaxRSS),
	}
}
