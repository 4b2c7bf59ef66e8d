package kernel

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// moduleTree lays out an unpacked kernel package; files are paths below the version's folder.
func moduleTree(t *testing.T, files map[string][]byte) *Modules {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		p := filepath.Join(root, "lib/modules/6.1.0-test", name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func testTree(t *testing.T) *Modules {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(moduleFile(t, "", "depends=")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return moduleTree(t, map[string][]byte{
		"modules.builtin":                   []byte("kernel/net/ipv6/ipv6.ko\nkernel/lib/crc-core.ko\n"),
		"kernel/net/bridge.ko":              moduleFile(t, "", "depends=stp,llc", "license=GPL"),
		"kernel/net/stp.ko":                 moduleFile(t, "", "depends=llc"),
		"kernel/net/llc.ko":                 moduleFile(t, "", "depends="),
		"kernel/net/nf_tables.ko":           moduleFile(t, "", "depends=libcrc32c,ipv6,crc-core"),
		"kernel/lib/libcrc32c.ko":           moduleFile(t, "", "softdep=pre: crc32c post: later", "depends="),
		"kernel/lib/later.ko":               moduleFile(t, "", "depends="),
		"kernel/crypto/crc32c_generic.ko":   moduleFile(t, "", "alias=crc32c", "alias=crypto-crc32c", "depends="),
		"kernel/arch/crc32c-intel.ko":       moduleFile(t, "", "alias=crc32c", "depends="),
		"kernel/drivers/char/virtio-rng.ko": moduleFile(t, "", "depends="),
		"kernel/fs/packed.ko.gz":            packed.Bytes(),
		"kernel/fs/ring_a.ko":               moduleFile(t, "", "softdep=pre: ring_b", "depends="),
		"kernel/fs/ring_b.ko":               moduleFile(t, "", "softdep=pre: ring_a", "depends="),
		"kernel/bad/debug.ko":               moduleFile(t, ".debug_info", "depends="),
		"kernel/bad/broken.ko":              []byte("not an ELF file"),
		"kernel/bad/orphan.ko":              moduleFile(t, "", "depends=missing"),
	})
}

func TestClosure(t *testing.T) {
	m := testTree(t)
	if got, want := m.Version, "6.1.0-test"; got != want {
		t.Errorf("version: got %s, want %s", got, want)
	}
	tests := map[string][]string{
		"bridge":          {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"},
		"nf_tables":       {"kernel/crypto/crc32c_generic.ko", "kernel/lib/libcrc32c.ko", "kernel/net/nf_tables.ko"},
		"virtio_rng":      {"kernel/drivers/char/virtio-rng.ko"},
		"virtio-rng":      {"kernel/drivers/char/virtio-rng.ko"},
		"ipv6":            nil,
		"llc bridge":      {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"},
		"packed":          {"kernel/fs/packed.ko"},
		"ring_a":          {"kernel/fs/ring_b.ko", "kernel/fs/ring_a.ko"},
		"llc llc ipv6":    {"kernel/net/llc.ko"},
		"crc32c_intel":    {"kernel/arch/crc32c-intel.ko"},
		"stp ring_b ipv6": {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/fs/ring_a.ko", "kernel/fs/ring_b.ko"},
	}
	for wanted, want := range tests {
		mods, err := m.Closure(strings.Fields(wanted))
		if err != nil {
			t.Errorf("%s: %v", wanted, err)
			continue
		}
		var got []string
		for _, mod := range mods {
			got = append(got, mod.Path)
			if !bytes.HasPrefix(mod.Data, []byte("\x7fELF")) {
				t.Errorf("%s is not unpacked", mod.Path)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, want %q", wanted, got, want)
		}
	}
}

func TestClosureRefuses(t *testing.T) {
	m := testTree(t)
	for wanted, want := range map[string]string{
		"nosuch bridge nothere": "neither as modules nor built in: nosuch, nothere",
		"orphan":                "missing (needed by orphan)",
		"debug":                 "debug information",
		"broken":                "kernel/bad/broken.ko",
	} {
		if _, err := m.Closure(strings.Fields(wanted)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", wanted, err, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no kernel modules") {
		t.Errorf("empty package: got %v", err)
	}
}

func TestParseModinfo(t *testing.T) {
	got := parseModinfo([]byte("license=GPL\x00depends=a,b\x00softdep=pre: c d post: e\x00softdep=post: f\x00alias=x=y\x00junk"))
	want := modinfo{depends: []string{"a", "b"}, pre: []string{"c", "d"}, aliases: []string{"x=y"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzParseModule(f *testing.F) {
	f.Add(moduleFile(f, "", "depends=a,b", "softdep=pre: c"))
	f.Add(moduleFile(f, ".debug_info", "depends="))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseModule(data)
	})
}

func TestProfile(t *testing.T) {
	names, err := Profile("virtual")
	if err != nil || len(names) < 20 {
		t.Errorf("virtual: got %d names, %v", len(names), err)
	}
	if _, err := Profile("toaster"); err == nil || !strings.Contains(err.Error(), "virtual") {
		t.Errorf("unknown profile: got %v, want the ones there are", err)
	}
}
