package modules

import (
	"slices"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	l := list{Load: []string{"k/a.ko"}, Demand: []string{"k/libiscsi.ko", "k/scsi-core.ko", "k/iscsi_tcp.ko", "k/xfs.ko"}}
	deps := map[string][]string{"k/iscsi_tcp.ko": {"libiscsi", "a"}, "k/libiscsi.ko": nil}
	needs := func(f string) ([]string, error) { return deps[f], nil }
	for _, test := range []struct {
		names, want []string
		err         string
	}{
		{[]string{"iscsi-tcp"}, []string{"k/libiscsi.ko", "k/iscsi_tcp.ko"}, ""},
		{[]string{"xfs", "scsi_core"}, []string{"k/scsi-core.ko", "k/xfs.ko"}, ""},
		{[]string{"a"}, nil, ""}, // loaded at boot
		{[]string{"zfs"}, nil, "--modules zfs"},
	} {
		got, err := l.plan(test.names, needs)
		if test.err == "" && (err != nil || !slices.Equal(got, test.want)) || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%v: got %v, %v, want %v, %q", test.names, got, err, test.want, test.err)
		}
	}
}

func TestNeeds(t *testing.T) {
	got := parseNeeds([]byte("license=GPL\x00depends=jbd2,mbcache\x00softdep=pre: crypto-crc32c post: x\x00"))
	if want := []string{"jbd2", "mbcache", "crc32c", "crc32c_generic"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := parse([]byte(`{"kernel":"6.1","demand":["../x.ko"]}`)); err == nil {
		t.Error("a path that leads out: got no error")
	}
}
