package pid1

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestRingFile: at any moment the file is within its limit and holds the newest lines, whole and in order.
func TestRingFile(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		const limit = 1000
		r, err := newRingFile(path, limit)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { r.f.Close() }()
		var all strings.Builder
		for i := range rapid.IntRange(1, 100).Draw(t, "lines") {
			line := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", rapid.IntRange(0, 200).Draw(t, "length")))
			all.WriteString(line)
			if _, err := r.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) > limit {
				t.Fatalf("file has %d bytes, want at most %d", len(got), limit)
			}
			if !strings.HasSuffix("\n"+all.String(), "\n"+string(got)) {
				t.Fatalf("file is not the newest whole lines:\n%s", got)
			}
			if len(got) < min(all.Len(), limit/4) {
				t.Fatalf("file has only %d bytes of %d", len(got), all.Len())
			}
		}
	})
}

func TestCopyLines(t *testing.T) {
	long := strings.Repeat("x", maxOutputLine)
	for _, test := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"a\nb\n", []string{"a\n", "b\n"}},
		{"a\n\nb", []string{"a\n", "\n", "b\n"}},
		{long + "y\n", []string{long + "\n", "y\n"}},
	} {
		var got []string
		if err := copyLines(strings.NewReader(test.in), func(l []byte) { got = append(got, string(l)) }); err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, "|") != strings.Join(test.want, "|") {
			t.Errorf("got %.80q, want %.80q", got, test.want)
		}
	}
}

// TestSinkNeverBlocks: a console that takes nothing costs lines, and says how many.
func TestSinkNeverBlocks(t *testing.T) {
	r, w := io.Pipe()
	s := newSink(w)
	for i := range 2 * queuedLines {
		s.put(fmt.Appendf(nil, "line %d\n", i))
	}
	if s.flush(time.Millisecond) {
		t.Error("flush says that all is written, and nobody reads")
	}
	if s.dropped.Load() == 0 {
		t.Error("no line was dropped, want those beyond the queue")
	}
	var got bytes.Buffer
	done := make(chan struct{})
	go func() { io.Copy(&got, r); close(done) }()
	if !s.flush(time.Minute) {
		t.Error("flush: not all was written though somebody reads")
	}
	w.Close()
	<-done
	if !strings.Contains(got.String(), "lines were dropped here") {
		t.Errorf("got %.200q, want it to say that lines were dropped", got.String())
	}
}
