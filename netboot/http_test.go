package netboot

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testFolder(t *testing.T) Folder {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{KernelFile: strings.Repeat("k", 5000), ArchiveFile: strings.Repeat("a", 7000), UnifiedFile: "MZ", "secret": "no"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := NewFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestHTTP(t *testing.T) {
	var stages []string
	files := &Files{
		Open: testFolder(t).Open,
		Script: func(mac net.HardwareAddr, _, self netip.Addr) string {
			return "#!ipxe " + mac.String() + " " + self.String()
		},
		Reached: func(mac string, _ netip.Addr, s Stage) { stages = append(stages, string(s)) },
	}
	srv := httptest.NewServer(files)
	defer srv.Close()
	for _, tt := range []struct {
		method, path, ranges string
		status               int
		kind, body           string
	}{
		{"GET", "/v1/ipxe?mac=52:54:00:00:00:01", "", 200, "text/plain; charset=utf-8", "#!ipxe 52:54:00:00:00:01 127.0.0.1"},
		{"GET", "/v1/ipxe", "", 400, "", ""},
		{"HEAD", "/v1/boot/skein.efi", "", 200, "application/efi", ""},
		{"GET", "/v1/boot/skein.efi?mac=52:54:00:00:00:01", "", 200, "application/efi", "MZ"},
		{"GET", "/v1/boot/bzImage", "bytes=4990-", 206, "application/octet-stream", "kkkkkkkkkk"},
		{"GET", "/v1/boot/secret", "", 404, "", ""},
		{"GET", "/v1/boot/..%2fsecret", "", 404, "", ""},
		{"GET", "/v1/boot//bzImage", "", 404, "", ""}, // and no redirect
		{"GET", "/", "", 404, "", ""},
		{"POST", "/v1/boot/bzImage", "", 405, "", ""},
	} {
		req, err := http.NewRequest(tt.method, srv.URL+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.ranges != "" {
			req.Header.Set("Range", tt.ranges)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || tt.kind != "" && resp.Header.Get("Content-Type") != tt.kind || tt.body != "" && string(body) != tt.body {
			t.Errorf("%s %s: got %d %s %q, %v", tt.method, tt.path, resp.StatusCode, resp.Header.Get("Content-Type"), body, err)
		}
	}
	if got := strings.Join(stages, " "); got != "script kernel booted kernel" {
		t.Errorf("got stages %q", got)
	}
}

func TestFolderSaysWhatIsMissing(t *testing.T) {
	_, err := NewFolder(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "skein image build") {
		t.Errorf("got %v, want what to do", err)
	}
}
