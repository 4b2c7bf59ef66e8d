package initramfs

import (
	"encoding/json"

	"github.com/skein-os/skein/initramfs/debian"
)

// Manifest tells what a build is made of. The one inside the archive (/etc/skein/manifest.json) lacks
// Files, which tell of the archive itself.
type Manifest struct {
	Kernel   string `json:"kernel"` // release, as uname -r tells
	Profile  string `json:"profile"`
	Skeind   string `json:"skeind_sha256"`
	Modules  int    `json:"modules"`
	Contents int64  `json:"contents_bytes"` // sum of all files in the archive, uncompressed
	// Packages are all Debian packages with files in the image, sorted by name.
	Packages []PackageEntry `json:"packages"`
	Files    []FileEntry    `json:"files,omitempty"`
	// Input is a sum over everything that decides the output: the build is skipped while it stays.
	Input string `json:"input,omitempty"`
}

// PackageEntry is a Debian package in the image.
type PackageEntry struct {
	debian.Package
	// Licence is the path in the image of Debian's copyright file. The source is Debian's source package
	// of the same version.
	Licence string `json:"licence"`
}

// FileEntry is a file of the output folder.
type FileEntry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size_bytes"`
	SHA256 string `json:"sha256"`
}

func (m Manifest) json() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	return append(data, '\n'), err
}
