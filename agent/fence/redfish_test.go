package fence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func stranger(t *testing.T, h http.HandlerFunc) Way {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	sum := sha256.Sum256(srv.Certificate().Raw)
	return Way{Driver: cluster.DriverRedfish, Address: srv.Listener.Addr().String(), User: "u", Password: "pass-word", Fingerprint: hex.EncodeToString(sum[:])}
}

func TestRedfishStrangers(t *testing.T) {
	one := `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`
	for _, tt := range []struct {
		name, want string
		h          http.HandlerFunc
	}{
		{"no JSON", "not readable", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }},
		{"endless", "more than", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, endless{}) }},
		{"sent elsewhere", "302", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
		}},
		{"names another host", "no path", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"Members":[{"@odata.id":"//192.0.2.1/redfish/v1"}]}`)
		}},
		{"several systems", "manages 2 systems", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"},{"@odata.id":"/redfish/v1/Systems/2"}]}`)
		}},
		{"echoes the password", "***", func(w http.ResponseWriter, r *http.Request) {
			_, p, _ := r.BasicAuth()
			http.Error(w, "no "+p, http.StatusInternalServerError)
		}},
		{"power unknown", `power as "Weird"`, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == redfishSystems {
				io.WriteString(w, one)
				return
			}
			io.WriteString(w, `{"PowerState":"Weird"}`)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Operate(t.Context(), stranger(t, tt.h), Read)
			if err == nil || p == Off || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %q, %v, want %q", p, err, tt.want)
			}
			if strings.Contains(err.Error(), "pass-word") || len(err.Error()) > 4*mostText {
				t.Errorf("the error tells too much: %v", err)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestPin: one with another certificate is told nothing.
func TestPin(t *testing.T) {
	w := stranger(t, func(http.ResponseWriter, *http.Request) { t.Error("a request got through") })
	w.Fingerprint = strings.Repeat("0", 64)
	if _, err := Operate(t.Context(), w, Read); err == nil || !strings.Contains(err.Error(), "not the pinned one") {
		t.Errorf("got %v", err)
	}
}

// TestIPMISilent: IPMI is UDP; a controller that is not there is a failure when the time is over.
func TestIPMISilent(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	p, err := Operate(ctx, Way{Driver: cluster.DriverIPMI, Address: c.LocalAddr().String(), User: "u", Password: "pass-word"}, Read)
	if err == nil || p != Unknown || strings.Contains(err.Error(), "pass-word") {
		t.Errorf("got %q, %v, want an error", p, err)
	}
}

// TestIPMIGarbage: what is no IPMI breaks nothing.
func TestIPMIGarbage(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for i := byte(0); ; i++ {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:min(n, int(i%32))], from)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if p, err := Operate(ctx, Way{Driver: cluster.DriverIPMI, Address: c.LocalAddr().String(), User: "u", Password: "p"}, Read); err == nil || p != Unknown {
		t.Errorf("got %q, %v, want an error", p, err)
	}
	c.Close()
	<-done
}

func TestCheck(t *testing.T) {
	good := func() *cluster.BMC {
		return &cluster.BMC{Node: "n1", Addresses: []string{"https://192.0.2.7/"}, User: "u", Fingerprint: strings.Repeat("AB:", 31) + "AB"}
	}
	b := good()
	if err := Check(b); err != nil || b.Addresses[0] != "192.0.2.7:443" || b.Driver != cluster.DriverRedfish || b.After != cluster.AfterOn || len(b.Fingerprint) != 64 {
		t.Errorf("got %+v, %v", b, err)
	}
	for want, change := range map[string]func(*cluster.BMC){
		"fingerprint": func(b *cluster.BMC) { b.Fingerprint = "ab" },
		"addresses":   func(b *cluster.BMC) { b.Addresses = nil },
		"IP address":  func(b *cluster.BMC) { b.Addresses = []string{"bmc.example"} },
		"user":        func(b *cluster.BMC) { b.User = "" },
		"driver":      func(b *cluster.BMC) { b.Driver = "x" },
		"IPMI":        func(b *cluster.BMC) { b.Driver = cluster.DriverIPMI },
		"after":       func(b *cluster.BMC) { b.After = "x" },
		"system":      func(b *cluster.BMC) { b.System = "/../etc" },
	} {
		b := good()
		change(b)
		if err := Check(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func FuzzSystem(f *testing.F) {
	f.Add([]byte(`{"PowerState":"Off","Actions":{"#ComputerSystem.Reset":{"target":"/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"}}}`))
	f.Add([]byte(`{"PowerState":"On"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, reset, err := parseSystem(data)
		if p == Off && (err != nil || !strings.Contains(string(data), "Off") && !strings.Contains(string(data), `\u`)) {
			t.Errorf("off was read from %q", data)
		}
		onService(t, reset)
	})
}

func FuzzSystems(f *testing.F) {
	f.Add([]byte(`{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`))
	f.Add([]byte(`{"Members":[{"@odata.id":"//192.0.2.1/redfish/"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseSystems(data)
		if err == nil && p == "" {
			t.Error("no path and no error")
		}
		onService(t, p)
	})
}

// onService: whatever a controller names, the password goes to the controller only.
func onService(t *testing.T, path string) {
	if path == "" {
		return
	}
	u, err := url.Parse("https://192.0.2.9:443" + path)
	if err != nil || u.Host != "192.0.2.9:443" || u.User != nil || !strings.HasPrefix(u.Path, "/redfish/") {
		t.Errorf("%q leads to %v, %v", path, u, err)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00b\xffsecret\n", "secret")
	f.Fuzz(func(t *testing.T, s, password string) {
		if got := clean(s, password); strings.ContainsAny(got, "\n\x1b\x00") || len([]rune(got)) > mostText {
			t.Errorf("got %q", got)
		}
	})
}
