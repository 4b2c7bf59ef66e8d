package target

import (
	"reflect"
	"slices"
	"testing"
)

// As the kernel 6.1 wrote it for two initiators, of which the first holds the reservation.
const saved = `PR_REG_START: 0
initiator_fabric=iSCSI
initiator_node=iqn.2026-01.dev.skein.test:a
initiator_sid=0x80123456789a
sa_res_key=10
res_holder=1
res_type=05
res_scope=00
res_all_tg_pt=0
mapped_lun=0
target_fabric=iSCSI
target_node=iqn.2026-01.dev.skein:lab
tpgt=1
port_rtpi=1
target_lun=0
PR_REG_END: 0
PR_REG_START: 1
initiator_fabric=iSCSI
initiator_node=iqn.2026-01.dev.skein.test:b
sa_res_key=11
res_holder=0
PR_REG_END: 1
`

func TestParseAPTPL(t *testing.T) {
	a := registration{"iqn.2026-01.dev.skein.test:a", "initiator_fabric=iSCSI,initiator_node=iqn.2026-01.dev.skein.test:a," +
		"initiator_sid=0x80123456789a,sa_res_key=10,res_holder=1,res_type=05,res_scope=00,res_all_tg_pt=0,mapped_lun=0," +
		"target_fabric=iSCSI,target_node=iqn.2026-01.dev.skein:lab,tpgt=1,port_rtpi=1,target_lun=0"}
	b := registration{"iqn.2026-01.dev.skein.test:b", "initiator_fabric=iSCSI,initiator_node=iqn.2026-01.dev.skein.test:b,sa_res_key=11,res_holder=0"}
	for _, tt := range []struct {
		name, data string
		want       []registration
	}{
		{"two", saved, []registration{a, b}},
		{"end at the zero byte", saved + "\x00PR_REG_START: 2\ninitiator_node=x\nPR_REG_END: 2\n", []registration{a, b}},
		{"the last is cut off", saved[:len(saved)-20], []registration{a}},
		{"none", "No Registrations or Reservations", nil},
		{"without an initiator", "PR_REG_START: 0\nsa_res_key=1\nPR_REG_END: 0\n", nil},
		{"empty", "", nil},
	} {
		if got := parseAPTPL([]byte(tt.data)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if got := initiators([]registration{b, a, b}); !slices.Equal(got, []string{a.initiator, b.initiator}) {
		t.Errorf("initiators: got %v", got)
	}
}
