package guest

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/skein-os/skein/initramfs"
	"github.com/skein-os/skein/initramfs/debian"
	"github.com/skein-os/skein/initramfs/kernel"
)

// moduleRecords are the files of these modules and what they depend on, for the kernel of the image in dir, and
// the list from which the guest's init loads them.
func moduleRecords(t *testing.T, dir string, wanted []string) []cpio.Record {
	t.Helper()
	if len(wanted) == 0 {
		return nil
	}
	var image initramfs.Manifest
	data, err := os.ReadFile(filepath.Join(dir, initramfs.ManifestName))
	if err == nil {
		err = json.Unmarshal(data, &image)
	}
	if err != nil {
		t.Fatalf("read what the image is made of: %v", err)
	}
	pkg := "linux-image-" + image.Kernel
	pins, err := debian.DefaultPins()
	if err != nil {
		t.Fatal(err)
	}
	cache := os.Getenv("SKEIN_CACHE_DIR")
	if cache == "" {
		cache = "../../cache"
	}
	cache, err = filepath.Abs(cache)
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&debian.Archive{Dir: cache, Pins: pins, Log: t.Output()}).Fetch(t.Context(), pkg)
	if err != nil {
		t.Fatalf("modules for the image's kernel: %v", err)
	}
	mods, err := kernel.Open(p.Root)
	if err != nil {
		t.Fatal(err)
	}
	if mods.Version != image.Kernel {
		t.Fatalf("the image has kernel %s, the package has %s: build the image anew", image.Kernel, mods.Version)
	}
	load, err := mods.Closure(wanted)
	if err != nil {
		t.Fatal(err)
	}
	// Folders before files: the kernel makes none by itself. A file that the image has too is written twice.
	list := struct {
		Kernel string
		Load   []string
	}{Kernel: mods.Version}
	made := map[string]bool{}
	var records []cpio.Record
	var folder func(string)
	folder = func(name string) {
		if name == "." || made[name] {
			return
		}
		folder(path.Dir(name))
		made[name] = true
		records = append(records, cpio.Directory(name, 0o755))
	}
	for _, m := range load {
		name := path.Join("test/modules", m.Path)
		folder(path.Dir(name))
		records = append(records, cpio.StaticFile(name, string(m.Data), 0o644))
		list.Load = append(list.Load, path.Join("../../../test/modules", m.Path))
	}
	data, err = json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return append(records, cpio.StaticFile("test/modules.json", string(data), 0o644))
}
