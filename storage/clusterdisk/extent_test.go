package clusterdisk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAllotNeverOverlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		room := Extent{Block * rapid.Int64Range(0, 9).Draw(t, "off"), Block * rapid.Int64Range(0, 64).Draw(t, "size")}
		var taken []Extent
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if len(taken) > 0 && rapid.Bool().Draw(t, "free") {
				i := rapid.IntRange(0, len(taken)-1).Draw(t, "which")
				taken = append(taken[:i], taken[i+1:]...)
				continue
			}
			size := rapid.Int64Range(0, 20*Block).Draw(t, "bytes")
			e, err := Allot(room, taken, size)
			if err != nil {
				if !errors.Is(err, ErrNoRoom) {
					t.Fatal(err)
				}
				// It says so only when it is so: look at each block that a piece could begin at.
				for off := room.Off; off+up(size) <= room.end(); off += Block {
					if !overlaps(Extent{off, up(size)}, taken) {
						t.Fatalf("no room for %d bytes in %v beside %v, and there is at %d", size, room, taken, off)
					}
				}
				continue
			}
			if e.Off < room.Off || e.end() > room.end() || e.Size < size || e.Off%Block != 0 || overlaps(e, taken) {
				t.Fatalf("got %v for %d bytes in %v beside %v", e, size, room, taken)
			}
			taken = append(taken, e)
		}
	})
}

func overlaps(e Extent, with []Extent) bool {
	for _, t := range with {
		if e.Off < t.end() && t.Off < e.end() {
			return true
		}
	}
	return false
}

func TestImagesOutlastPower(t *testing.T) {
	f := newFake(600 << 20)
	d := format(t, f)
	room := d.Images()
	if room.Off != 150<<20 || room.end() != f.size {
		t.Fatalf("got %v for images on a disk of %d bytes", room, f.size)
	}
	want := make([]byte, 3*chunk+12345)
	for i := range want {
		want[i] = byte(rand.N(256))
	}
	at, err := Allot(room, nil, int64(len(want)))
	noError(t, err)
	noError(t, d.WriteImage(t.Context(), at, int64(len(want)), bytes.NewReader(want)))
	f = f.powerCut()
	again := get(Open(f, token))
	r, err := again.ReadImage(at, int64(len(want)))
	noError(t, err)
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want what was written", len(got), err)
	}
	// The ledger's part is where it was, and a LUN that has grown has more room for images only.
	before := again.slotBank(3, 1)
	f.size += 100 << 20
	grown := get(Open(f, token))
	if got := grown.slotBank(3, 1); got != before || grown.Images().Size != room.Size+100<<20 {
		t.Errorf("got bank %v and %v for images of a disk that has grown, want bank %v", got, grown.Images(), before)
	}
}

func TestImageMustFitItsPlace(t *testing.T) {
	d := format(t, newFake(600<<20))
	room := d.Images()
	for _, tt := range []struct {
		name string
		at   Extent
		size int64
		data string
		want string
	}{
		{"in the ledger's part", Extent{room.Off - Block, Block}, 4, "data", "not in the disk's part for images"},
		{"behind the end", Extent{room.end(), Block}, 4, "data", "not in the disk's part for images"},
		{"larger than its piece", Extent{room.Off, Block}, Block + 1, "data", "not in the disk's part for images"},
		{"shorter than said", Extent{room.Off, Block}, 5, "data", "unexpected EOF"},
		{"longer than said", Extent{room.Off, Block}, 3, "data", "more than 3 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := d.WriteImage(t.Context(), tt.at, tt.size, strings.NewReader(tt.data)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if small := format(t, newFake(MinSize)); small.Images().Size != 0 {
		t.Errorf("got %v for images on the smallest disk, want none", small.Images())
	}
}
