package reserve

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/takeover"
)

func TestKeyLayout(t *testing.T) {
	k, err := testCodec.Encode(key(3, 0x1122334455))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("0x%04x031122334455", testCodec.tag)
	if got := k.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []takeover.Key{{}, key(0, 5), key(5, 0)} {
		if k, err := testCodec.Encode(bad); err == nil {
			t.Errorf("encode %+v: got %s, want an error", bad, k)
		}
	}
	if k, err := (Codec{}).Encode(key(1, 1)); err == nil {
		t.Errorf("codec of no cluster: got %s, want an error", k)
	}
	if _, err := NewCodec(""); err == nil {
		t.Error("no cluster ID: want an error")
	}
}

func TestKeyWraps(t *testing.T) {
	const wrap = 1 << epochBits
	for _, tt := range []struct{ epoch, near uint64 }{
		{wrap - 1, wrap + 5}, {wrap + 5, wrap - 1}, {1, wrap / 2}, {7, 7}, {5*wrap + 5, 6*wrap - wrap/2 + 4}, {wrap, wrap}, {3 * wrap, 3*wrap + 1},
	} {
		k, err := testCodec.Encode(key(9, tt.epoch))
		if err != nil {
			t.Fatal(err)
		}
		got, ok := testCodec.Decode(k, tt.near)
		if !ok || got != key(9, tt.epoch) {
			t.Errorf("epoch %d read near %d: got %+v, %v", tt.epoch, tt.near, got, ok)
		}
	}
	// Left behind for too long: it looks newer, so its preemptor gives up. Never the other way round.
	k, err := testCodec.Encode(key(9, 1))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := testCodec.Decode(k, wrap/2+10); got.Epoch <= wrap/2+10 {
		t.Errorf("a key of 2^39 revisions ago: got epoch %d, want one that looks newer", got.Epoch)
	}
}

func TestKeysComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, err := NewCodec(rapid.StringMatching(`[0-9a-f]{8}`).Draw(t, "cluster"))
		if err != nil {
			t.Fatal(err)
		}
		near := rapid.Uint64Range(1<<41, 1<<60).Draw(t, "near")
		distance := rapid.Int64Range(-1<<39, 1<<39-1).Draw(t, "distance")
		want := key(rapid.Uint8Range(1, 255).Draw(t, "node"), near+uint64(distance))
		k, err := c.Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := c.Decode(k, near)
		if !ok || got != want || c.isTest(k) || k>>tagShift == 0 || k>>tagShift == 0xffff {
			t.Fatalf("key %s read near %d: got %+v, %v, want %+v", k, near, got, ok, want)
		}
	})
}

func TestForeignKeysAreRecognised(t *testing.T) {
	other, err := NewCodec("another cluster")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.Encode(key(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	// fence_scsi, people, Windows, and nobody.
	for _, k := range []Key{theirs, 0x44440001, 0x22, 0xffffffffffffffff, 0x734d534d00010002, 0} {
		if got, ok := testCodec.Decode(k, 1); ok {
			t.Errorf("key %s: got %+v, want that it is foreign", k, got)
		}
	}
	k := testCodec.Test(3)
	if got, ok := testCodec.Decode(k, 1000); !ok || got.Node != 0 || got.Epoch >= 1000 || !testCodec.isTest(k) {
		t.Errorf("self-test's key: got %+v, %v, want the oldest epoch of node 0", got, ok)
	}
}
