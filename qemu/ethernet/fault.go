package ethernet

import (
	"math/rand/v2"
	"time"
)

// Fault is what a port does to the frames of one direction. The zero value is a good cable.
type Fault struct {
	Drop      bool          // every frame vanishes without a sign
	Longest   int           // frames of more bytes vanish; 0: none
	Loss      float64       // share of the frames that vanish, 0 to 1
	Duplicate float64       // share of those left that come twice, each copy with a delay of its own
	Corrupt   float64       // share of those left in which one bit is wrong
	Delay     time.Duration // added to each frame
	Jitter    time.Duration // a random part of it is added to or taken from Delay: frames overtake each other
}

// fate is what a fault has decided for one frame.
type fate struct {
	copies int              // 0: the frame is lost
	delay  [2]time.Duration // of each copy
	flip   int              // which bit of the frame is wrong, modulo its length; below 0: none
}

// next is the fate of the next frame. A fault without chance draws no number.
func (f Fault) next(r *rand.Rand) fate {
	if f.Drop || f.Loss > 0 && r.Float64() < f.Loss {
		return fate{}
	}
	out := fate{copies: 1, flip: -1}
	if f.Duplicate > 0 && r.Float64() < f.Duplicate {
		out.copies = 2
	}
	for i := range out.copies {
		out.delay[i] = f.Delay
		if f.Jitter > 0 {
			out.delay[i] = max(f.Delay+time.Duration((2*r.Float64()-1)*float64(f.Jitter)), 0)
		}
	}
	if f.Corrupt > 0 && r.Float64() < f.Corrupt {
		out.flip = r.IntN(1 << 30)
	}
	return out
}

func (f *fate) delays() []time.Duration { return f.delay[:f.copies] }

// apply returns the frame as it goes on. A changed one is a copy: the frame is shared with other ports. The
// addresses stay: a frame that went astray would be a loss, which is another fault.
func (f *fate) apply(frame []byte) []byte {
	const addresses = 12
	if f.flip < 0 || len(frame) <= addresses {
		return frame
	}
	bit := f.flip % (8 * (len(frame) - addresses))
	wrong := append([]byte(nil), frame...)
	wrong[addresses+bit/8] ^= 1 << (bit % 8)
	return wrong
}
