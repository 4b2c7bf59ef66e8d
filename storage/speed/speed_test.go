package speed

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int64) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, size); err != nil {
			t.Fatal(err)
		}
		return p
	}
	a, b, tiny := file("a", 8<<20), file("b", 3<<20), file("tiny", 4096)
	got, err := Measure(t.Context(), []string{a, filepath.Join(dir, "none"), b, tiny}, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for i, well := range []bool{true, false, true, false} {
		r := got[i]
		if well && (r.Error != "" || r.Reads == 0 || r.Median <= 0 || r.P99 < r.Median || r.Throughput <= 0) {
			t.Errorf("device %d: got %+v, want figures", i, r)
		}
		if !well && (r.Error == "" || r.Reads != 0 || r.Throughput != 0) {
			t.Errorf("device %d: got %+v, want an error and no figures", i, r)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Measure(ctx, []string{a}, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	if _, err := Measure(t.Context(), []string{a}, time.Hour); err == nil {
		t.Error("an hour: got no error")
	}
}
