package demo

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/skein-os/skein/initramfs/debian"
	"github.com/skein-os/skein/initramfs/tree"
)

// Compose is the stack that the images are made for.
//
//go:embed compose.yaml
var Compose []byte

// ComposeName is the file in the output folder that has Compose.
const ComposeName = "compose.yaml"

// refAnnotation has the reference of an image in an OCI layout's index.
const refAnnotation = "org.opencontainers.image.ref.name"

// Options of a build.
type Options struct {
	Archive *debian.Archive
	// Reports is the report generator's program for linux/amd64, static.
	Reports string
	// Postgres is the starter of the database's image for linux/amd64, static; empty: that image is not built.
	Postgres string
	// Out is the output folder; it is made if need be.
	Out string
}

// Result is an image that was written.
type Result struct {
	Ref    string // demo/web:1
	File   string // path of the archive
	Digest string // of the manifest
	Size   int64  // of the archive, bytes
}

// recipe is one image: its layers from the bottom, and its configuration.
type recipe struct {
	name   string
	layers []*tree.Tree
	config v1.Config
}

// nginxConfig: SIGQUIT lets nginx finish the requests that it has begun.
var nginxConfig = v1.Config{
	Entrypoint: []string{"/usr/sbin/nginx"}, Env: defaultEnv, WorkingDir: "/", StopSignal: "SIGQUIT",
	ExposedPorts: map[string]struct{}{"80/tcp": {}},
}

var defaultEnv = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}

// Build writes the images and their Compose file.
func Build(ctx context.Context, o Options) ([]Result, error) {
	recipes, err := recipes(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, err
	}
	var results []Result
	for _, r := range recipes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		res, err := r.write(o.Out)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", r.ref(), err)
		}
		results = append(results, res)
	}
	return results, replaceFile(filepath.Join(o.Out, ComposeName), Compose)
}

func recipes(ctx context.Context, o Options) ([]recipe, error) {
	base, err := baseTree(ctx, o.Archive)
	if err != nil {
		return nil, err
	}
	nginx, err := nginxTree(ctx, o.Archive)
	if err != nil {
		return nil, err
	}
	web, err := siteTree("web", nil)
	if err != nil {
		return nil, err
	}
	made, err := mediaFiles()
	if err != nil {
		return nil, err
	}
	media, err := siteTree("media", made)
	if err != nil {
		return nil, err
	}
	reports := tree.New()
	if err := reports.Copy("/usr/bin/reports", 0o755, o.Reports); err != nil {
		return nil, fmt.Errorf("the report generator: %w", err)
	}
	all := []recipe{
		{"web", []*tree.Tree{base, nginx, web}, nginxConfig},
		{"media", []*tree.Tree{base, nginx, media}, nginxConfig},
		{"reports", []*tree.Tree{base, reports}, v1.Config{
			Entrypoint: []string{"/usr/bin/reports"}, Env: defaultEnv, WorkingDir: "/", User: "65534:65534", StopSignal: "SIGTERM",
		}},
	}
	if o.Postgres == "" {
		return all, nil
	}
	postgres, err := postgresRecipe(ctx, o.Archive, base, o.Postgres)
	if err != nil {
		return nil, err
	}
	return append(all, postgres), nil
}

func (r recipe) ref() string { return "demo/" + r.name + ":1" }

func (r recipe) image() (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, t := range r.layers {
		l, err := layer(t)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, err
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", "amd64", r.config
	cf.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	cf.History = nil // it would hold times and say nothing
	return mutate.ConfigFile(img, cf)
}

// write puts the image as an OCI layout into a tar file.
func (r recipe) write(dir string) (Result, error) {
	img, err := r.image()
	if err != nil {
		return Result{}, err
	}
	blobs, desc, err := imageBlobs(img)
	if err != nil {
		return Result{}, err
	}
	desc.ArtifactType = "" // it would repeat the type of the configuration
	desc.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	desc.Annotations = map[string]string{refAnnotation: r.ref()}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*desc}})
	if err != nil {
		return Result{}, err
	}
	blobs["index.json"] = index
	blobs["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	data, err := archive(blobs)
	if err != nil {
		return Result{}, err
	}
	name := filepath.Join(dir, r.name+".tar")
	return Result{Ref: r.ref(), File: name, Digest: desc.Digest.String(), Size: int64(len(data))}, replaceFile(name, data)
}

// imageBlobs returns everything that the image is made of, by path in the layout.
func imageBlobs(img v1.Image) (map[string][]byte, *v1.Descriptor, error) {
	blobs := map[string][]byte{}
	put := func(h v1.Hash, data []byte) { blobs["blobs/"+h.Algorithm+"/"+h.Hex] = data }
	desc, err := partial.Descriptor(img)
	if err != nil {
		return nil, nil, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, nil, err
	}
	put(desc.Digest, manifest)
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, nil, err
	}
	name, err := img.ConfigName()
	if err != nil {
		return nil, nil, err
	}
	put(name, config)
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return nil, nil, err
		}
		r, err := l.Compressed()
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, nil, err
		}
		put(h, data)
	}
	return blobs, desc, nil
}

func archive(files map[string][]byte) ([]byte, error) {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, n := range names {
		h := &tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[n])), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := tw.Write(files[n]); err != nil {
			return nil, err
		}
	}
	err := tw.Close()
	return b.Bytes(), err
}

// replaceFile leaves an equal file alone.
func replaceFile(name string, data []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return tree.ReplaceFile(name, data)
}
