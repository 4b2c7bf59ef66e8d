package netboot

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Files are what HTTP and TFTP give, and who is told of it.
type Files struct {
	// Open gives a file by its name; os.ErrNotExist if there is none.
	Open func(name string) (File, error)
	// Script is what iPXE on a machine runs.
	Script func(mac net.HardwareAddr, from, self netip.Addr) string
	// Reached is told how far a machine got. mac is empty if it did not say.
	Reached func(mac string, from netip.Addr, s Stage)
}

// File is one of Files.
type File interface {
	Read(p []byte) (int, error)
	Seek(offset int64, whence int) (int64, error)
	Close() error
	Size() int64
	ModTime() time.Time
}

// ServeHTTP gives files with ranges. There are no redirects: UEFI's HTTP Boot does not follow them.
func (f *Files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	mac := r.URL.Query().Get("mac")
	switch p := r.URL.Path; {
	case p == scriptPath:
		f.script(w, r, mac, from.Addr())
	case strings.HasPrefix(p, bootPath):
		f.file(w, r, strings.TrimPrefix(p, bootPath), mac, from.Addr())
	default:
		http.Error(w, "nothing is here: the files are below "+bootPath, http.StatusNotFound)
	}
}

func (f *Files) script(w http.ResponseWriter, r *http.Request, mac string, from netip.Addr) {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		http.Error(w, "want ?mac=AA:BB:CC:DD:EE:FF", http.StatusBadRequest)
		return
	}
	self := netip.Addr{}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			self = ap.Addr().Unmap()
		}
	}
	text := f.Script(hw, from, self)
	f.Reached(mac, from, StageScript)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	_, _ = w.Write([]byte(text)) // a client that has gone asks again
}

func (f *Files) file(w http.ResponseWriter, r *http.Request, name, mac string, from netip.Addr) {
	file, err := f.Open(name)
	if err != nil {
		http.Error(w, "there is no "+name+" here", http.StatusNotFound)
		return
	}
	defer file.Close()
	kind := "application/octet-stream"
	if path.Ext(name) == ".efi" {
		kind = "application/efi" // or HTTP Boot does not know what it is
	}
	w.Header().Set("Content-Type", kind)
	if r.Method == http.MethodHead {
		http.ServeContent(w, r, name, file.ModTime(), file)
		return
	}
	begin, end := stagesOf(name)
	f.Reached(mac, from, begin)
	counted := &countedWriter{ResponseWriter: w}
	http.ServeContent(counted, r, name, file.ModTime(), file)
	if end != "" && counted.sent == file.Size() {
		f.Reached(mac, from, end)
	}
}

// stagesOf is what the beginning and the end of a file's transfer mean.
func stagesOf(name string) (begin, end Stage) {
	switch {
	case name == ArchiveFile:
		return StageArchive, StageBooted
	case name == UnifiedFile:
		return StageKernel, StageBooted
	case slices.Contains([]string{IPXEBIOS, IPXEUEFI}, name):
		return StageLoader, ""
	}
	return StageKernel, ""
}

type countedWriter struct {
	http.ResponseWriter
	sent int64
}

func (c *countedWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent += int64(n)
	return n, err
}
