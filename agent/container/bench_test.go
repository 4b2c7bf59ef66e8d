package container

import "testing"

// BenchmarkStart is the way of a takeover from decision to process, with the image unpacked.
func BenchmarkStart(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		w.start(w.instance("a", "hang"))
		b.StopTimer()
		if err := w.runtime.Remove(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
