package accel

import (
	"os/exec"
	"path/filepath"
	"testing"
)

const qemu = "qemu-system-x86_64"

// The program must come to its end where nothing is wrong, or it would find every KVM broken.
func TestProbeProgramRunsUnderTCG(t *testing.T) {
	if _, err := exec.LookPath(qemu); err != nil {
		t.Skip("needs " + qemu)
	}
	if err := Probe(t.Context(), qemu, TCG); err != nil {
		t.Fatalf("got %v, want nil", err)
	}
}

func TestChooseIsOverridden(t *testing.T) {
	for _, want := range []Kind{KVM, TCG} {
		t.Setenv(Env, string(want))
		if got, err := Choose(t.Context(), qemu); err != nil || got.Kind != want {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	t.Setenv(Env, "xen")
	if _, err := Choose(t.Context(), qemu); err == nil {
		t.Fatal("got no error for an unknown kind")
	}
}

func TestCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "skein", "accel.json")
	want := Choice{TCG, "because"}
	writeCache(file, "key", want)
	if got, ok := readCache(file, "key"); !ok || got != want {
		t.Fatalf("got %v, %v, want %v", got, ok, want)
	}
	if _, ok := readCache(file, "other"); ok {
		t.Fatal("another boot or QEMU: got a cached answer, want none")
	}
}
