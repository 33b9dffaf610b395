package image

import (
	"cmp"
	"context"
	"slices"
)

// Piece is content that lies in one frame: Pages pages from address Addr on.
type Piece struct {
	Addr  uint64
	Pages uint32
	Frame uint32 // for FrameReader.Read
	Off   uint32 // pages into what Read returns
}

// End is the address after the piece.
func (p *Piece) End() uint64 { return p.Addr + uint64(p.Pages)*PageSize }

// Pieces returns where the data pages of a space are, by ascending address and disjoint.
func (r *Reader) Pieces(space Space) []Piece {
	runs := r.pages.of(space)
	out := make([]Piece, 0, len(runs))
	for i := range runs {
		if m := &runs[i]; m.frame != frameZero {
			out = append(out, Piece{Addr: m.addr, Pages: m.pages, Frame: m.frame, Off: m.off})
		}
	}
	return out
}

// FrameReader reads frames in any order. One goroutine uses it; a Reader may have any number of them.
type FrameReader struct{ fr frameReader }

// Frames returns a FrameReader, whose buffers take 2 MiB at most.
func (r *Reader) Frames() *FrameReader { return &FrameReader{frameReader{r: r}} }

// Read returns the pages of a frame after its checksum was found right. They are valid until the next Read. The fault is E_IMAGE_*.
func (f *FrameReader) Read(frame uint32) ([]byte, error) { return f.fr.read(frame) }

// Close releases the buffers.
func (f *FrameReader) Close() { f.fr.close() }

// LoadParts is Load for those pages of a space that lie in parts, which are ascending, disjoint and page aligned.
func (r *Reader) LoadParts(ctx context.Context, space Space, parts []Range, n int, sink func(addr uint64, data []byte) error) error {
	list := r.Pieces(space)
	cut := make([]Piece, 0, len(list))
	for i := range list {
		cut = append(cut, list[i].Within(parts)...)
	}
	slices.SortFunc(cut, func(a, b Piece) int { return cmp.Or(cmp.Compare(a.Frame, b.Frame), cmp.Compare(a.Addr, b.Addr)) })
	var starts []int // of each frame's pieces
	for i := range cut {
		if i == 0 || cut[i].Frame != cut[i-1].Frame {
			starts = append(starts, i)
		}
	}
	ends := append(slices.Clone(starts), len(cut))
	return r.parallel(ctx, len(starts), n, func(fr *frameReader, job int) error {
		mine := cut[starts[job]:ends[job+1]]
		data, err := fr.read(mine[0].Frame)
		if err != nil {
			return err
		}
		for i := range mine {
			from := int(mine[i].Off) * PageSize
			to := from + int(mine[i].Pages)*PageSize
			if err := sink(mine[i].Addr, data[from:to:to]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Within returns those parts of a piece that lie in parts, which are ascending and disjoint.
func (p *Piece) Within(parts []Range) []Piece {
	var out []Piece
	i, _ := slices.BinarySearchFunc(parts, p.Addr, func(r Range, addr uint64) int {
		if r.End <= addr {
			return -1
		}
		return 1
	})
	for ; i < len(parts) && parts[i].Start < p.End(); i++ {
		from, to := max(p.Addr, parts[i].Start), min(p.End(), parts[i].End)
		out = append(out, Piece{
			Addr: from, Pages: uint32((to - from) / PageSize), Frame: p.Frame, Off: p.Off + uint32((from-p.Addr)/PageSize),
		})
	}
	return out
}
