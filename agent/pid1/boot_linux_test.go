package pid1

import (
	"slices"
	"strings"
	"testing"
)

func TestModulesForWatchdog(t *testing.T) {
	list, err := parseModules([]byte(`{"kernel":"6.1.0","load":["a/virtio.ko","w/watchdog.ko","w/soft-dog.ko","w/softdog.ko","w/i6300esb.ko"]}`))
	if err != nil {
		t.Fatal(err)
	}
	needs := func(file string) []string {
		if !strings.HasPrefix(file, "/lib/modules/6.1.0/w/") {
			t.Errorf("asked for the needs of %s", file)
		}
		switch moduleName(file) {
		case "i6300esb", "softdog":
			return []string{"watchdog"}
		}
		return nil
	}
	for name, want := range map[string][]string{
		"i6300esb": {"w/watchdog.ko", "w/i6300esb.ko"},
		"softdog":  {"w/watchdog.ko", "w/softdog.ko"},
		"soft_dog": {"w/soft-dog.ko"},
		"iTCO_wdt": nil,
	} {
		if got := list.withNeeds(name, needs); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestParseModulesRefuses(t *testing.T) {
	for _, bad := range []string{
		``, `{"load":["a.ko"]}`, `{"kernel":"../x","load":[]}`, `{"kernel":"6.1.0","load":["../../bin/x"]}`, `{"kernel":"6.1.0","load":["/x.ko"]}`,
	} {
		if got, err := parseModules([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v, want an error", bad, got)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	for _, test := range []struct {
		line, target, fstype string
		ok                   bool
	}{
		{"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue", "/mnt 2", "ext3", true},
		{"22 1 0:2 / / rw - rootfs rootfs rw,size=1k", "/", "rootfs", true},
		{"22 1 0:2 / /", "", "", false},
		{"22 1 - ext4", "", "", false},
		{"", "", "", false},
	} {
		target, fstype, ok := parseMountinfo(test.line)
		if target != test.target || fstype != test.fstype || ok != test.ok {
			t.Errorf("%q: got %q, %q, %v, want %q, %q, %v", test.line, target, fstype, ok, test.target, test.fstype, test.ok)
		}
	}
}

func TestWantsKernelLog(t *testing.T) {
	for cmdline, want := range map[string]bool{
		"console=ttyS0 quiet": false, "console=ttyS0 loglevel=7\n": true, "debug": true, "nodebug=1": false,
	} {
		if got := wantsKernelLog(cmdline); got != want {
			t.Errorf("%q: got %v, want %v", cmdline, got, want)
		}
	}
}
