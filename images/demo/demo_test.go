package demo

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/skein-os/skein/initramfs/debian"
)

func TestMediaFiles(t *testing.T) {
	a, err := mediaFiles()
	if err != nil {
		t.Fatal(err)
	}
	b, err := mediaFiles()
	if err != nil {
		t.Fatal(err)
	}
	for name := range a {
		if !bytes.Equal(a[name], b[name]) {
			t.Errorf("%s is not the same twice", name)
		}
	}
	if _, err := png.Decode(bytes.NewReader(a["sky.png"])); err != nil {
		t.Errorf("sky.png: %v", err)
	}
	if err := xml.Unmarshal(a["skein.svg"], new(struct{})); err != nil {
		t.Errorf("skein.svg: %v", err)
	}
	wav := a["call.wav"]
	if got, want := int(binary.LittleEndian.Uint32(wav[4:])), len(wav)-8; string(wav[:4]) != "RIFF" || got != want {
		t.Errorf("call.wav: RIFF size is %d, want %d", got, want)
	}
	if got, want := int(binary.LittleEndian.Uint32(wav[40:])), len(wav)-44; string(wav[36:40]) != "data" || got != want {
		t.Errorf("call.wav: data size is %d, want %d", got, want)
	}
}

// TestBuild makes the images of real packages, twice, and reads them as another tool would.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("packs images")
	}
	cache := os.Getenv("SKEIN_IMAGE_DIR")
	if cache == "" {
		t.Skip("SKEIN_IMAGE_DIR is not set: no built image to take packages from")
	}
	pins, err := debian.DefaultPins()
	if err != nil {
		t.Fatal(err)
	}
	reports := filepath.Join(t.TempDir(), "reports")
	if err := os.WriteFile(reports, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := Options{Archive: &debian.Archive{Dir: filepath.Dir(cache), Pins: pins, Log: t.Output()}, Reports: reports, Out: t.TempDir()}
	first, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Out = t.TempDir()
	second, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	wantFiles := map[string][]string{
		"demo/web:1":     {"usr/sbin/nginx", "usr/lib64/ld-linux-x86-64.so.2", "etc/nginx/nginx.conf", "usr/share/nginx/html/index.html", "bin", "usr/bin/sh", "usr/share/doc/nginx/copyright"},
		"demo/media:1":   {"usr/sbin/nginx", "usr/share/nginx/html/sky.png", "usr/share/nginx/html/call.wav"},
		"demo/reports:1": {"usr/bin/reports", "usr/bin/busybox", "etc/passwd", "tmp"},
	}
	for i, r := range first {
		t.Run(r.Ref, func(t *testing.T) {
			a, err := os.ReadFile(r.File)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(second[i].File)
			if err != nil || !bytes.Equal(a, b) {
				t.Errorf("not the same bytes twice (%v)", err)
			}
			if len(a) > 15<<20 {
				t.Errorf("the image has %d bytes, want under 15 MiB", len(a))
			}
			img := read(t, a, r.Ref)
			if err := validate.Image(img); err != nil {
				t.Error(err)
			}
			if got, err := img.Digest(); err != nil || got.String() != r.Digest {
				t.Errorf("digest: got %s, %v; want %s", got, err, r.Digest)
			}
			names := contents(t, img)
			for _, want := range wantFiles[r.Ref] {
				if !slices.Contains(names, want) {
					t.Errorf("%s is not in the image", want)
				}
			}
		})
	}
	if got, err := os.ReadFile(filepath.Join(o.Out, ComposeName)); err != nil || !bytes.Equal(got, Compose) {
		t.Errorf("%s: %v", ComposeName, err)
	}
}

// read unpacks the archive as an OCI layout and finds the one image by its reference.
func read(t *testing.T, data []byte, ref string) v1.Image {
	t.Helper()
	dir := t.TempDir()
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		blob, err := io.ReadAll(tr)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, blob, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Annotations[refAnnotation] != ref {
		t.Fatalf("index: got %+v, want one image called %s", m.Manifests, ref)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func contents(t *testing.T, img v1.Image) []string {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	var names []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.Name, "..") || filepath.IsAbs(h.Name) {
			t.Errorf("bad name %q", h.Name)
		}
		names = append(names, h.Name)
	}
}
