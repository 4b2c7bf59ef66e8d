package netboot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Folder is where the files are. Only the names in it are given.
type Folder map[string]string // name to path

// NewFolder finds what there is in an image's folder (`skein image build`). Kernel and archive must be there.
func NewFolder(image string) (Folder, error) {
	f := Folder{}
	for _, name := range []string{KernelFile, ArchiveFile} {
		p := filepath.Join(image, name)
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("%s is no image for network boot (build one with 'skein image build'): %w", image, err)
		}
		f[name] = p
	}
	for _, name := range []string{UnifiedFile, IPXEBIOS, IPXEUEFI} {
		p := filepath.Join(image, name)
		if _, err := os.Stat(p); err == nil {
			f[name] = p
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return f, nil
}

// Has tells whether a file is there.
func (f Folder) Has(name string) bool { return f[name] != "" }

// Site is what can be given from the folder.
func (f Folder) Site(httpPort uint16) Site {
	return Site{HTTPPort: httpPort, Unified: f.Has(UnifiedFile), Loaders: f.Has(IPXEBIOS) && f.Has(IPXEUEFI)}
}

// Open opens a file of the folder.
func (f Folder) Open(name string) (File, error) {
	path, ok := f[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return diskFile{file, info}, nil
}

type diskFile struct {
	*os.File
	info os.FileInfo
}

func (d diskFile) Size() int64        { return d.info.Size() }
func (d diskFile) ModTime() time.Time { return d.info.ModTime() }

var _ io.ReadSeekCloser = diskFile{}
