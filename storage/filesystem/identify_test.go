package filesystem

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const testSize = 8 << 20

func image(at int, bytes string) []byte {
	b := make([]byte, testSize)
	if at < 0 {
		at += len(b)
	}
	copy(b[at:], bytes)
	return b
}

func TestIdentify(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want Kind
	}{
		{"nothing", image(0, ""), Empty},
		{"one byte", image(700000, "x"), Foreign},
		{"one byte at the end", image(-1, "x"), Foreign},
		{"LUKS", image(0, "LUKS\xba\xbe"), LUKS},
		{"second header of LUKS2", image(16384, "SKUL\xba\xbe"), LUKS},
		{"LVM", image(512+24, "LVM2 001"), LVM},
		{"md 1.2", image(4096, "\xfc\x4e\x2b\xa9"), MD},
		{"md 0.90", image(-65536, "\xfc\x4e\x2b\xa9"), MD},
		{"md 1.0", image(-8192, "\xfc\x4e\x2b\xa9"), MD},
		{"GPT", image(512, "EFI PART"), GPT},
		{"backup GPT", image(-512, "EFI PART"), GPT},
		{"MBR", image(510, "\x55\xaa"), MBR},
		{"swap", image(4086, "SWAPSPACE2"), Swap},
		{"gfs2", image(65536, "\x01\x16\x19\x70"), GFS2},
		{"btrfs", image(65536+64, "_BHRfS_M"), Btrfs},
		{"ZFS at the beginning", image(128<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"), ZFS},
		{"ZFS at the end", image(-128<<10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"), ZFS},
		{"no ext4 at all", image(1024+0x38, "\x53\xef"), Foreign},
		{"no xfs at all", image(0, "XFSB"), Foreign},
	} {
		got, err := Identify(bytes.NewReader(c.data), int64(len(c.data)))
		if err != nil || got.Kind != c.want {
			t.Errorf("%s: got %v, %v, want %s", c.name, got, err, c.want)
		}
	}
	var xfs [128]byte
	copy(xfs[:], "XFSB")
	binary.BigEndian.PutUint32(xfs[4:], 4096)
	binary.BigEndian.PutUint64(xfs[8:], 1000)
	copy(xfs[32:], "\x12\x34\x56\x78\x9a\xbc\xde\xf0\x11\x22\x33\x44\x55\x66\x77\x88")
	copy(xfs[108:], "da\x1bta")
	want := Content{Kind: XFS, UUID: "12345678-9abc-def0-1122-334455667788", Label: "da?ta", Size: 4096000}
	if got, err := Identify(bytes.NewReader(image(0, string(xfs[:]))), testSize); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// A real ext4, made as a volume is.
func TestMakeExt4(t *testing.T) {
	if _, err := exec.LookPath("/sbin/mke2fs"); err != nil {
		t.Skip("there is no /sbin/mke2fs here")
	}
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	v := Volume{Name: "shop_data", Kind: Ext4, UUID: "5e6e1c1a-52f5-4b8e-9d0a-0a1b2c3d4e5f"}
	if err := (Linux{}).Make(t.Context(), name, v, Empty); err != nil {
		t.Fatal(err)
	}
	c, err := Linux{}.Identify(name)
	if want := (Content{Kind: Ext4, UUID: v.UUID, Label: "shop_data", Size: 64 << 20}); err != nil || c != want {
		t.Fatalf("got %+v, %v, want %+v", c, err, want)
	}
	// It is there now, so it is not made again unless somebody says so.
	other := Volume{Name: "other", Kind: Ext4, UUID: "11111111-52f5-4b8e-9d0a-0a1b2c3d4e5f"}
	if err := (Linux{}).Make(t.Context(), name, other, Empty); !errors.Is(err, ErrForeign) {
		t.Fatalf("got %v, want ErrForeign", err)
	}
	if got, err := (Linux{}).Identify(name); err != nil || got != c {
		t.Fatalf("got %+v, %v after a refusal, want %+v as before", got, err, c)
	}
	if _, err := (Linux{}).Mount(t.Context(), name, other, filepath.Join(t.TempDir(), "m")); !errors.Is(err, ErrForeign) {
		t.Fatalf("got %v for a mount of another volume, want ErrForeign", err)
	}
	if err := (Linux{}).Make(t.Context(), name, other, Ext4); err != nil {
		t.Fatal(err)
	}
	if got, err := (Linux{}).Identify(name); err != nil || got.UUID != other.UUID {
		t.Fatalf("got %+v, %v, want the new one", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Linux{}).Make(ctx, name, v, Ext4); err == nil {
		t.Error("got no error from a making that was cut off")
	}
}

func TestCheckResult(t *testing.T) {
	for code, ok := range map[int]bool{0: true, 1: true, 2: true, 3: true, 4: false, 8: false, 12: false, -1: false} {
		if err := checkResult(code, "out"); (err == nil) != ok {
			t.Errorf("exit code %d: got %v, want ok %v", code, err, ok)
		}
	}
}

func TestMountinfo(t *testing.T) {
	got := parseMountinfo(`36 35 98:0 / /run/a rw,noatime shared:1 - ext4 /dev/sdb rw,errors=remount-ro
37 35 98:0 / /run/b rw,noatime - ext4 /dev/sdc ro,errors=remount-ro
38 35 98:0 / /run/c ro - xfs /dev/sdd rw
nonsense
`)
	want := map[string]mounted{"/run/a": {"/dev/sdb", false}, "/run/b": {"/dev/sdc", true}, "/run/c": {"/dev/sdd", false}}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: got %v, want %v", k, got[k], v)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add(image(1024+0x38, "\x53\xef")[:4096], []byte{})
	f.Add([]byte("XFSB"), []byte("EFI PART"))
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		c := identify(head, tail, int64(len(head)+len(tail)))
		if c.Kind == "" || c.Size < 0 || strings.ContainsFunc(c.Label, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("got %+v", c)
		}
		if c.Kind == Empty && (!zero(head) || !zero(tail)) {
			t.Error("got empty for what is not")
		}
	})
}
