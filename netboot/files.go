package netboot

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

// tftpName is the name that a machine asks for by TFTP: it says which machine it is, as "?mac=" does by HTTP.
func tftpName(mac net.HardwareAddr, file string) string {
	return strings.ReplaceAll(mac.String(), ":", "-") + "/" + file
}

// splitTFTPName is the MAC, empty if the name has none, and the file.
func splitTFTPName(name string) (mac, file string) {
	name = strings.TrimPrefix(name, "/")
	if dir, file, ok := strings.Cut(name, "/"); ok {
		if hw, err := net.ParseMAC(dir); err == nil {
			return hw.String(), file
		}
	}
	return "", name
}

// TFTP gives the files by TFTP. listen opens the socket of a transfer; done is as in [TFTP].
func (f *Files) TFTP(listen func() (net.PacketConn, error), done func(name string, from netip.AddrPort, sent int64, err error)) *TFTP {
	return &TFTP{
		Open: func(name string, from netip.AddrPort) (io.ReadCloser, int64, error) {
			mac, name := splitTFTPName(name)
			file, err := f.Open(name)
			if err != nil {
				return nil, 0, err
			}
			begin, _ := stagesOf(name)
			f.Reached(mac, from.Addr(), begin)
			return file, file.Size(), nil
		},
		Listen: listen,
		Done: func(name string, from netip.AddrPort, sent int64, err error) {
			mac, file := splitTFTPName(name)
			if _, end := stagesOf(file); err == nil && end != "" {
				f.Reached(mac, from.Addr(), end)
			}
			if done != nil {
				done(name, from, sent, err)
			}
		},
	}
}
