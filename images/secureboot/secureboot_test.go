package secureboot

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestKeysAreNotReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Create(dir, "Test", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := Create(dir, "Test", time.Now()); err == nil || !strings.Contains(err.Error(), "must be new") {
		t.Errorf("a second time: got %v", err)
	}
	k, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign([]byte("no program")); err == nil {
		t.Error("signed what is no program")
	}
}

func FuzzEnrol(f *testing.F) {
	store := make([]byte, 0x48+4096)
	copy(store[volumeSignatureAt:], volumeSignature)
	store[volumeHeaderAt] = 0x48
	copy(store[0x48:], storeGUID[:])
	store[0x48+storeSizeAt+1] = 0x10
	f.Add(store)
	k := &Keys{}
	f.Fuzz(func(_ *testing.T, vars []byte) { _, _ = k.Enrol(vars) }) // must not panic
}
