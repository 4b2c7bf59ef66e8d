package target

import (
	"slices"
	"testing"
)

func TestParseSaved(t *testing.T) {
	const text = `PR_REG_START: 0
initiator_fabric=iSCSI
initiator_node=iqn.2026-01.dev.skein:n1
sa_res_key=81985529216486895
res_holder=1
res_type=05
PR_REG_END: 0
PR_REG_START: 1
sa_res_key=7
res_holder=0
PR_REG_END: 1
`
	got := parseSaved(text)
	want := []string{"initiator_fabric=iSCSI,initiator_node=iqn.2026-01.dev.skein:n1,sa_res_key=81985529216486895,res_holder=1,res_type=05",
		"sa_res_key=7,res_holder=0"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := parseSaved("PR_REG_START: 0\ncut of"); len(got) != 0 {
		t.Errorf("a file cut short: got %q, want nothing", got)
	}
}
