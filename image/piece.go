package image

import (
	"cmp"
	"context"
	"slices"

	"github.com/bpfckpt/bpfckpt/model"
)

// Piece is content that lies in one frame: Pages pages from address Addr on.
type Piece struct {
	Addr  uint64
	Pages uint32
	Frame uint32 // for FrameReader.Read
	Off   uint32 // pages into what Read returns
}

// End is the address after the piece.
func (p *Piece) End() uint64 { return p.Addr + uint64(p.Pages)*model.PageSize }

// PiecesIn returns where those data pages of a space are that lie in parts, by ascending address and disjoint. parts
// are ascending, disjoint and page aligned.
func (r *Reader) PiecesIn(space model.Space, parts []model.Range) []Piece {
	runs := r.pages.of(space)
	out := make([]Piece, 0, len(runs)+len(parts))
	for i := range runs {
		m := &runs[i]
		for len(parts) > 0 && parts[0].End <= m.addr {
			parts = parts[1:]
		}
		if m.frame == frameZero {
			continue
		}
		for _, part := range parts {
			if part.Start >= m.end() {
				break
			}
			from, to := max(m.addr, part.Start), min(m.end(), part.End)
			p := m.part(from, to)
			out = append(out, Piece{Addr: p.addr, Pages: p.pages, Frame: p.frame, Off: p.off})
		}
	}
	return out
}

// FrameReader reads frames in any order. One goroutine uses it; a Reader may have any number of them.
type FrameReader struct{ fr frameReader }

// Frames returns a FrameReader, whose buffers take 2 MiB at most.
func (r *Reader) Frames() *FrameReader { return &FrameReader{frameReader{r: r}} }

// Read returns the pages of a frame after its checksum was found right. They are valid until the next Read. The fault
// is E_IMAGE_*.
func (f *FrameReader) Read(frame uint32) ([]byte, error) { return f.fr.read(frame) }

// Close releases the buffers.
func (f *FrameReader) Close() { f.fr.close() }

// LoadParts is Load for those pages of a space that lie in parts, which are ascending, disjoint and page aligned.
func (r *Reader) LoadParts(ctx context.Context, space model.Space, parts []model.Range, n int,
	sink func(addr uint64, data []byte) error,
) error {
	cut := r.PiecesIn(space, parts)
	slices.SortFunc(cut, func(a, b Piece) int {
		return cmp.Or(cmp.Compare(a.Frame, b.Frame),
			cmp.Compare(a.Addr, b.Addr))
	})
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
			from := int(mine[i].Off) * model.PageSize
			to := from + int(mine[i].Pages)*model.PageSize
			if err := sink(mine[i].Addr, data[from:to:to]); err != nil {
				return err
			}
		}
		return nil
	})
}
