package admission

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// door is a member whose server the test can look into.
type door struct {
	*member
	server *Server
	ca     string
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{member: newMember(t, nil)}
	d.server = NewServer("n1", d.ledger, slog.New(slog.DiscardHandler))
	d.addr = serveTLS(t, d.files, d.server)
	var err error
	if d.ca, err = certHash(d.self.CA); err != nil {
		t.Fatal(err)
	}
	return d
}

func keyHash(t testing.TB, k *ecdsa.PrivateKey) string {
	t.Helper()
	h, err := pki.KeyHash(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// decide writes an operator's record, as the API does.
func (d *door) decide(t *testing.T, change func(*cluster.Admission) cluster.Admission) {
	t.Helper()
	var a cluster.Admission
	rev, err := d.ledger.Get(t.Context(), cluster.KeyAdmission, &a)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := d.ledger.Commit(t.Context(), cluster.Txn{Conditions: []cluster.Condition{{Key: cluster.KeyAdmission, Revision: rev}},
		Puts: []cluster.Put{{Key: cluster.KeyAdmission, Value: change(&a)}}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func (d *door) verdict(t *testing.T, v cluster.Verdict) {
	t.Helper()
	d.decide(t, func(a *cluster.Admission) cluster.Admission { return a.With(v) })
}

func (d *door) told(text string) bool {
	d.ledger.mu.Lock()
	defer d.ledger.mu.Unlock()
	for _, e := range d.ledger.events {
		if strings.Contains(e.Text+": "+e.Why, text) {
			return true
		}
	}
	return false
}

func isWaiting(err error) bool { var w *Waiting; return errors.As(err, &w) }

func TestApproval(t *testing.T) {
	d := newDoor(t)
	key := newKey(t)
	ask := func(r Request) (*Admitted, error) { return Ask(t.Context(), d.addr, d.ca, key, r) }
	if _, err := ask(request("n2", "2", "1")); !isWaiting(err) {
		t.Fatalf("before an operator decides: got %v, want that it waits", err)
	}
	list, err := d.server.Applicants(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("applicants: got %v, %v, want one", list, err)
	}
	code := Code(d.ca, keyHash(t, key))
	if list[0].Code != code || list[0].Name != "n2" {
		t.Errorf("got %+v, want the code %s", list[0], code)
	}
	if !d.told("with the code " + code) {
		t.Error("no event of a machine that asks")
	}
	d.verdict(t, cluster.Verdict{Code: code, By: "ann"})
	var denied *Denied
	if _, err := ask(request("n2", "2", "1")); !errors.As(err, &denied) {
		t.Fatalf("denied: got %v", err)
	}
	d.verdict(t, cluster.Verdict{Code: code, By: "ann", Approved: true, Name: "db1"})
	adm, err := ask(request("n2", "2", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if adm.Node.Name != "db1" || !bytes.Equal(adm.Token, d.token) || len(adm.HeartbeatKey) != 32 {
		t.Errorf("got node %q, token %d, want db1 with the cluster's token", adm.Node.Name, len(adm.Token))
	}
	if err := pki.CheckKeyPair(adm.CA, adm.Cert, adm.Key); err != nil {
		t.Error(err)
	}
	var a cluster.Admission
	if _, err := d.ledger.Get(t.Context(), cluster.KeyAdmission, &a); err != nil || len(a.Verdicts) != 0 {
		t.Errorf("the approval was not used up: %+v, %v", a, err)
	}
	// The answer was lost: the same boot asks again, and its record stays.
	again, err := ask(request("n2", "2", "1"))
	if err != nil || again.Node.Name != "db1" || again.Node.Epoch != adm.Node.Epoch {
		t.Errorf("asked again: got %+v, %v", again, err)
	}
	// Another key, even of the same machine, is another code.
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), request("db1", "2", "2")); !isWaiting(err) {
		t.Errorf("the machine with a new key: got %v, want that it waits", err)
	}
}

// Who holds a copy of an admitted machine's key, or claims its name, does not get in, and there is an event of it.
func TestStrangersWithoutAToken(t *testing.T) {
	d := newDoor(t)
	key := newKey(t)
	d.verdict(t, cluster.Verdict{Code: Code(d.ca, keyHash(t, key)), By: "ann", Approved: true})
	if _, err := Ask(t.Context(), d.addr, d.ca, key, request("n2", "2", "1")); err != nil {
		t.Fatal(err)
	}
	d.server.Heard = func(_ context.Context, node, boot string) bool { return node == "n2" && boot == "boot-id-1" }

	_, err := Ask(t.Context(), d.addr, d.ca, key, request("n3", "3", "1"))
	if err == nil || isWaiting(err) || !d.told("its disk or memory was copied") {
		t.Errorf("a copied key on another machine: got %v", err)
	}
	_, err = Ask(t.Context(), d.addr, d.ca, key, request("n2", "2", "9"))
	if err == nil || isWaiting(err) || !d.told("is heard in another boot") {
		t.Errorf("a copied disk, with the machine's id too: got %v", err)
	}
	forger := newKey(t)
	d.verdict(t, cluster.Verdict{Code: Code(d.ca, keyHash(t, forger)), By: "ann", Approved: true})
	_, err = Ask(t.Context(), d.addr, d.ca, forger, request("n2", "4", "1"))
	if err == nil || isWaiting(err) || !d.told("belongs to another machine") {
		t.Errorf("a forged name, though approved: got %v", err)
	}
	if n := d.ledger.node(t, "n2"); n.MachineID != "machine-2" || n.BootID != "boot-id-1" {
		t.Errorf("n2 is now %+v", n)
	}
	if d.ledger.node(t, "n3") != nil {
		t.Error("n3 was admitted")
	}
}

func TestAllowedMachines(t *testing.T) {
	d := newDoor(t)
	d.decide(t, func(a *cluster.Admission) cluster.Admission {
		a.Allowed = []cluster.Allowance{{Kind: cluster.AllowMAC, Value: "52:54:00:00:00:02", By: "ann"}, {Kind: cluster.AllowSerial, Value: "CZ1", By: "ann"}}
		return *a
	})
	r := request("n2", "2", "1")
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), r); !isWaiting(err) {
		t.Fatalf("not on the list: got %v", err)
	}
	r.Links[0].MAC = "52:54:00:00:00:02"
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), r); err != nil {
		t.Fatalf("on the list: %v", err)
	}
	if !d.told("that proves nothing") {
		t.Error("the event does not say that a MAC address proves nothing")
	}
	thief := request("n9", "9", "1")
	thief.Links[0].MAC = r.Links[0].MAC
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), thief); err == nil || isWaiting(err) || !d.told("one of them is a copy, or a stranger") {
		t.Errorf("the MAC address of a member: got %v", err)
	}
	s := request("n3", "3", "1")
	s.Serial = "CZ1"
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), s); err != nil {
		t.Errorf("by its serial number: %v", err)
	}
}

// What was signed for one connection is worth nothing on another one: a recorded request cannot be replayed.
func TestReplayedAsk(t *testing.T) {
	d := newDoor(t)
	key := newKey(t)
	d.verdict(t, cluster.Verdict{Code: Code(d.ca, keyHash(t, key)), By: "ann", Approved: true})
	r := request("n2", "2", "1")
	r.Version = Version
	var err error
	if r.CSR, err = pki.NewCSR(key, r.Name); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	connect := func() (*tls.Conn, []byte) {
		c, err := tls.Dial("tcp", d.addr.String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		cs := c.ConnectionState()
		ch, err := channel(&cs)
		if err != nil {
			t.Fatal(err)
		}
		return c, ch
	}
	_, first := connect()
	signature, err := ecdsa.SignASN1(rand.Reader, key, askDigest(first, body))
	if err != nil {
		t.Fatal(err)
	}
	second, _ := connect()
	_, err = exchange(second, d.addr, AskPath, envelope{Body: body, Proof: signature})
	var re *Refused
	if !errors.As(err, &re) || re.Status != http.StatusUnauthorized || !d.told("it is a replay") {
		t.Errorf("got %v, want a refusal with status 401, and an event", err)
	}
	if d.ledger.node(t, "n2") != nil {
		t.Error("the replay was admitted")
	}
}

// Another cluster, or somebody in the middle, has another CA: it is not believed, and the code would differ.
func TestAskOnlyThePinnedCA(t *testing.T) {
	d, other := newDoor(t), newDoor(t)
	if _, err := Ask(t.Context(), other.addr, d.ca, newKey(t), request("n2", "2", "1")); err == nil || !strings.Contains(err.Error(), "of another cluster") {
		t.Errorf("got %v, want that it is another cluster", err)
	}
	if list, err := other.server.Applicants(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("it was told of the machine: %v, %v", list, err)
	}
	k := keyHash(t, newKey(t))
	if Code(d.ca, k) == Code(other.ca, k) {
		t.Error("two CAs, one code")
	}
}

func TestCode(t *testing.T) {
	a := Code(strings.Repeat("00", 32), strings.Repeat("11", 32))
	if a != Code(strings.Repeat("00", 32), strings.Repeat("11", 32)) || len(a) != codeLength+1 {
		t.Errorf("got %q", a)
	}
	if b := Code(strings.Repeat("00", 32), strings.Repeat("12", 32)); a == b {
		t.Error("two keys, one code")
	}
	for in, want := range map[string]string{"7k2qm4xn0v": "7K2QM-4XN0V", "7K2QM-4XN0V": "7K2QM-4XN0V", "7k2qm 4xnov": "7K2QM-4XN0V", "n3": "", "7K2QM-4XNUV": "", "node-1234567": ""} {
		if got, ok := ParseCode(in); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, ok, want)
		}
	}
}

// A flood of strangers fills nothing and hides no machine that was there before it; one that comes later is approved by
// the code on its console.
func TestFlood(t *testing.T) {
	var table applicants
	real := cluster.Applicant{Name: "real", From: netip.MustParseAddr("10.0.0.7")}
	if fresh, err := table.ask(0, "real", real); !fresh || err != nil {
		t.Fatal(fresh, err)
	}
	refused := 0
	for i := range 10000 {
		from := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		if i%2 == 0 {
			from = netip.MustParseAddr("10.0.0.66")
		}
		if _, err := table.ask(time.Duration(i)*time.Millisecond, fmt.Sprint("stranger", i), cluster.Applicant{From: from}); err != nil {
			refused++
		}
	}
	same := 0
	for _, a := range table.list {
		if a.From == netip.MustParseAddr("10.0.0.66") {
			same++
		}
	}
	if len(table.list) > maxApplicants || same > maxApplicantsOfOne || refused < 9900 {
		t.Errorf("%d wait, %d of one address, %d refused", len(table.list), same, refused)
	}
	if fresh, err := table.ask(20*time.Second, "real", real); fresh || err != nil || table.list[0].key != "real" {
		t.Errorf("the one that was there: got %v, %v", fresh, err)
	}
	if fresh, err := table.ask(20*time.Second+forgetApplicantAfter, "late", cluster.Applicant{From: real.From}); !fresh || err != nil {
		t.Errorf("after the flood: got %v, %v", fresh, err)
	}

	d := newDoor(t)
	for i := range maxApplicants {
		if _, err := d.server.applicants.ask(sinceBoot(), fmt.Sprint(i), cluster.Applicant{From: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}); err != nil {
			t.Fatal(err)
		}
	}
	key := newKey(t)
	var re *Refused
	if _, err := Ask(t.Context(), d.addr, d.ca, key, request("n2", "2", "1")); !errors.As(err, &re) || re.Status != http.StatusTooManyRequests {
		t.Errorf("in a full table: got %v", err)
	}
	d.verdict(t, cluster.Verdict{Code: Code(d.ca, keyHash(t, key)), By: "ann", Approved: true})
	if _, err := Ask(t.Context(), d.addr, d.ca, key, request("n2", "2", "1")); err != nil {
		t.Errorf("approved by its code in the flood: %v", err)
	}
}

func TestPin(t *testing.T) {
	ca := strings.Repeat("ab", 32)
	p, err := ParsePin("quiet skein.ca=" + ca + " skein.join=10.0.0.1,n2.example:7701 console=ttyS0")
	if err != nil || p == nil || p.CA != ca || len(p.Join) != 2 {
		t.Errorf("got %+v, %v", p, err)
	}
	if again, err := ParsePin(p.Words()); err != nil || again.Words() != p.Words() {
		t.Errorf("got %+v, %v", again, err)
	}
	if p, err := ParsePin("quiet"); p != nil || err != nil {
		t.Errorf("no pin: got %+v, %v", p, err)
	}
	if _, err := ParsePin("skein.ca=12"); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
		t.Errorf("a short one: got %v", err)
	}
}

// FuzzAsk sends anything to the door, over a right connection, with a right signature of whatever key.
func FuzzAsk(f *testing.F) {
	f.Add([]byte(`{"version":1,"role":"node","name":"n2"}`), []byte("0123456789012345678901234567890123456789"))
	f.Fuzz(func(t *testing.T, body, proof []byte) {
		data, err := json.Marshal(envelope{Body: body, Proof: proof})
		if err != nil {
			t.Skip()
		}
		env, err := parseEnvelope(data)
		if err != nil {
			return
		}
		req, err := parseRequest(env.Body)
		if err != nil {
			return
		}
		csr, err := pki.ParseCSR(req.CSR)
		if err != nil {
			return
		}
		if verifyAsk(csr.PublicKey, []byte("channel"), env.Body, env.Proof) == nil {
			t.Fatal("a signature for a channel that the fuzzer does not know")
		}
	})
}

func FuzzPeekBeacon(f *testing.F) {
	b := Beacon{Cluster: "lab", Name: "n1", ClusterID: "1", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	data, err := b.Encode(testToken)
	if err != nil {
		f.Fatal(err)
	}
	if got := PeekBeacon(data); len(got) != 1 {
		f.Fatalf("got %v of a member's beacon", got)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(PeekBeacon(data)) > 16 {
			t.Fatal("more addresses than a machine has")
		}
	})
}
