package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SAN is an iSCSI target that all nodes log in to, through all of its portals.
type SAN struct {
	Name    string           `json:"name"`
	IQN     string           `json:"iqn"`
	Portals []netip.AddrPort `json:"portals"`
	// User is CHAP's; empty: no authentication. The secret is among the ledger's secrets, see SANSecret.
	User string `json:"user,omitempty"`
	// TargetUser is whom the target proves to be, by CHAP in the other direction; empty: it need not. See SANTargetSecret.
	TargetUser string `json:"target_user,omitempty"`

	Revision int64 `json:"-"` // ledger's mod revision, filled in by the store
}

// DefaultISCSIPort is iSCSI's, RFC 7143.
const DefaultISCSIPort = 3260

// Key is the ledger's key of the target.
func (s *SAN) Key() string { return KeySANs + s.Name }

// SANSecret is the name of the CHAP secret among the ledger's secrets.
func SANSecret(name string) string { return "san/" + name }

// SANTargetSecret is the name of the secret by which the target proves itself.
func SANTargetSecret(name string) string { return "san/" + name + "/target" }

// storageName is what SANs, disks' aliases and volumes may be called: it becomes a folder's name.
var storageName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

// iqn as in RFC 3720, 3.2.6.3: a date, a reversed domain, and what its owner chose; or an EUI-64 or NAA name.
var iqn = regexp.MustCompile(`^(iqn\.\d{4}-\d{2}\.[a-z0-9][a-z0-9.-]*(:[^\s/]+)?|eui\.[0-9A-Fa-f]{16}|naa\.([0-9A-Fa-f]{16}|[0-9A-Fa-f]{32}))$`)

// Check tells what is wrong with the record; nil if nothing is.
func (s *SAN) Check() error {
	switch {
	case !storageName.MatchString(s.Name):
		return fmt.Errorf("SAN %q: a name has lower-case letters, digits and dashes", s.Name)
	case len(s.IQN) > 223 || !iqn.MatchString(s.IQN):
		return fmt.Errorf("SAN %s: %q is no target's name: it looks like iqn.2026-01.dev.skein:lab", s.Name, s.IQN)
	case len(s.Portals) == 0:
		return fmt.Errorf("SAN %s: it needs a portal, an address like 192.0.2.10", s.Name)
	case strings.ContainsAny(s.User+s.TargetUser, "\n\r\x00") || len(s.User) > 223 || len(s.TargetUser) > 223:
		return fmt.Errorf("SAN %s: the user's name has characters that CHAP cannot carry", s.Name)
	case s.User == "" && s.TargetUser != "":
		return fmt.Errorf("SAN %s: a target proves itself only to an initiator that has proved itself first: it needs a user, too", s.Name)
	}
	for i, p := range s.Portals {
		if !p.IsValid() || p.Port() == 0 || p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
			return fmt.Errorf("SAN %s: portal %s is no address that can be reached", s.Name, p)
		}
		if slices.Contains(s.Portals[:i], p) {
			return fmt.Errorf("SAN %s: portal %s is there twice", s.Name, p)
		}
	}
	return nil
}

// CheckCHAPSecret tells what is wrong with a secret, without quoting it. RFC 3720, 8.2.1 asks for 96 bits where the
// connection is not encrypted, and many targets take 12 to 16 characters only.
func CheckCHAPSecret(user, secret string) error {
	switch {
	case user == "" && secret == "":
		return nil
	case user == "":
		return fmt.Errorf("there is a CHAP secret and no user for it")
	case len(secret) < 12:
		return fmt.Errorf("the CHAP secret of user %s has %d characters: RFC 3720 asks for 12 at least", user, len(secret))
	case strings.ContainsAny(secret, "\n\r\x00"):
		return fmt.Errorf("the CHAP secret of user %s has a line break or a zero byte in it", user)
	}
	return nil
}

// Disk is a disk that was enrolled: its self-test was made, and it is this cluster's from then on.
type Disk struct {
	WWN       string `json:"wwn"` // the kernel's wwid with spaces as underscores: naa.6001405...
	Alias     string `json:"alias,omitempty"`
	Size      int64  `json:"size_bytes"`
	BlockSize int    `json:"block_size_bytes"`
	Model     string `json:"model,omitempty"` // vendor and model, for people
	// FastFenced: a takeover may rely on the disk's reservations alone. Because is why not.
	FastFenced bool      `json:"fast_fenced"`
	Because    string    `json:"because,omitempty"`
	Paths      []string  `json:"paths,omitempty"` // that took part in the test, by their names on TestedBy
	TestedBy   string    `json:"tested_by"`       // the node
	Tested     time.Time `json:"tested"`          // wall clock, for people only
	Cluster    string    `json:"cluster"`         // ID of the cluster that enrolled it: Meta.ID

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the disk.
func (d *Disk) Key() string { return KeyDisks + d.WWN }

// Name is what people call it.
func (d *Disk) Name() string { return cmp.Or(d.Alias, d.WWN) }

// CheckWWN tells whether a disk can be known by this name on every node.
func CheckWWN(wwn string) error {
	if wwn == "" || len(wwn) > 223 || strings.ContainsFunc(wwn, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return fmt.Errorf("disk %q: it has no worldwide name, so it cannot be told from another disk", wwn)
	}
	return nil
}

// Check tells what is wrong with the record; nil if nothing is.
func (d *Disk) Check() error {
	if err := CheckWWN(d.WWN); err != nil {
		return err
	}
	if d.Alias != "" && !storageName.MatchString(d.Alias) {
		return fmt.Errorf("disk %s: alias %q: use lower-case letters, digits and dashes", d.WWN, d.Alias)
	}
	return nil
}

// File systems of a volume.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// MinVolume is the smallest disk that a volume is made on, bytes: mkfs.xfs refuses smaller ones.
const MinVolume = 300 << 20

// VolumeRecord is a volume: one file system on one whole disk, for one service at a time.
type VolumeRecord struct {
	Name string `json:"name"`
	Disk string `json:"disk"` // WWN
	FS   string `json:"fs"`
	UUID string `json:"uuid"` // of the file system, chosen before it was made: a volume is known again by it
	Size int64  `json:"size_bytes"`
	// Ready: the file system is made. Until then no service gets it.
	Ready     bool      `json:"ready"`
	CreatedBy string    `json:"created_by"` // the operator
	Created   time.Time `json:"created"`    // wall clock, for people only

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the volume.
func (v *VolumeRecord) Key() string { return KeyVolumes + v.Name }

// Check tells what is wrong with the record; nil if nothing is.
func (v *VolumeRecord) Check() error {
	switch {
	case !storageName.MatchString(v.Name):
		return fmt.Errorf("volume %q: a name has lower-case letters, digits, dashes and underscores", v.Name)
	case v.FS != Ext4 && v.FS != XFS:
		return fmt.Errorf("volume %s: file system %q is not one of %s, %s", v.Name, v.FS, Ext4, XFS)
	}
	return CheckWWN(v.Disk)
}

// SAN finds a target by its name, nil if there is none.
func (s *State) SAN(name string) *SAN {
	for i := range s.SANs {
		if s.SANs[i].Name == name {
			return &s.SANs[i]
		}
	}
	return nil
}

// Disk finds an enrolled disk by its WWN or alias, nil if there is none.
func (s *State) Disk(name string) *Disk {
	for i := range s.Disks {
		if d := &s.Disks[i]; name != "" && (d.WWN == name || d.Alias == name) {
			return d
		}
	}
	return nil
}

// Volume finds a volume by its name, nil if there is none.
func (s *State) Volume(name string) *VolumeRecord {
	for i := range s.Volumes {
		if s.Volumes[i].Name == name {
			return &s.Volumes[i]
		}
	}
	return nil
}

// VolumeOn finds the volume on a disk, nil if there is none.
func (s *State) VolumeOn(wwn string) *VolumeRecord {
	for i := range s.Volumes {
		if s.Volumes[i].Disk == wwn {
			return &s.Volumes[i]
		}
	}
	return nil
}

// UserOf names who has the disk: the service that wants it, or an instance that has not ended yet. Empty: nobody.
func (s *State) UserOf(wwn string) string {
	uses := func(list []Volume) bool {
		return slices.ContainsFunc(list, func(v Volume) bool { return v.Disk == wwn })
	}
	for i := range s.Services {
		if uses(s.Services[i].Volumes) {
			return s.Services[i].FullName()
		}
	}
	for i := range s.Instances {
		if in := &s.Instances[i]; uses(in.Spec.Volumes) {
			return in.Spec.FullName()
		}
	}
	return ""
}

// CheckNewVolume tells why a volume cannot be made on a disk of the ledger. size 0: the whole disk.
func (s *State) CheckNewVolume(v *VolumeRecord, size int64) error {
	if err := v.Check(); err != nil {
		return err
	}
	if s.Volume(v.Name) != nil {
		return fmt.Errorf("volume %s is there already; 'skein volume show %s' shows it", v.Name, v.Name)
	}
	d := s.Disk(v.Disk)
	switch {
	case d == nil:
		return fmt.Errorf("disk %s is not enrolled: 'skein disk ls' lists what nodes see, 'skein disk enrol %s' tests it and makes it this cluster's", v.Disk, v.Disk)
	case d.Cluster != s.Meta.ID:
		return fmt.Errorf("disk %s belongs to another cluster (ID %s)", d.Name(), d.Cluster)
	case !d.FastFenced:
		return fmt.Errorf("disk %s cannot keep a lost node from writing: %s; a service on it could not be taken over safely", d.Name(), d.Because)
	}
	if o := s.VolumeOn(d.WWN); o != nil {
		return fmt.Errorf("disk %s has volume %s already: a disk has one reservation, so one volume; export another LUN for this one", d.Name(), o.Name)
	}
	if o := s.SharedOn(d.WWN); o != nil {
		return fmt.Errorf("disk %s has the shared file system %s: export another LUN for this volume", d.Name(), o.Name)
	}
	switch {
	case d.Size < MinVolume:
		return fmt.Errorf("disk %s has %d bytes: a volume needs %d", d.Name(), d.Size, MinVolume)
	case size > d.Size:
		return fmt.Errorf("volume %s of %d bytes does not fit on disk %s of %d bytes", v.Name, size, d.Name(), d.Size)
	case size != 0 && size < d.Size:
		return fmt.Errorf("volume %s of %d bytes would leave the rest of disk %s (%d bytes) unused: a disk has one reservation, so one volume, which takes all of it; leave --size out, or export a LUN of that size",
			v.Name, size, d.Name(), d.Size)
	}
	return nil
}

// ResolveVolumes fills in what the ledger knows of the volumes that a service asks for, and tells which of them
// it cannot have.
func (s *State) ResolveVolumes(svc *Service) error {
	for i := range svc.Volumes {
		v := &svc.Volumes[i]
		if v.Asked == nil {
			v.Asked = &VolumeAsked{}
		}
		if err := s.resolve(svc, v); err != nil {
			if v.Asked.At != "" {
				return fmt.Errorf("%s: service %s: %w", v.Asked.At, svc.FullName(), err)
			}
			return fmt.Errorf("service %s: %w", svc.FullName(), err)
		}
		v.Asked = nil
	}
	return nil
}

func (s *State) resolve(svc *Service, v *Volume) error {
	r := s.Volume(v.Name)
	if r == nil {
		return fmt.Errorf("there is no volume %s: make it with '%s', or name one of 'skein volume ls'", v.Name, v.Asked.command(v.Name))
	}
	switch a := v.Asked; {
	case !r.Ready:
		return fmt.Errorf("volume %s has no file system yet: its making was cut off; remove it with 'skein volume rm %s' and make it again", r.Name, r.Name)
	case a.FS != "" && a.FS != r.FS:
		return fmt.Errorf("volume %s is %s, not %s as driver_opts.fs says: change that, or name another volume", r.Name, r.FS, a.FS)
	case a.Size > r.Size:
		return fmt.Errorf("volume %s has %d bytes, not %d as driver_opts.size says: enlarge its LUN and run 'skein volume grow %s'", r.Name, r.Size, a.Size, r.Name)
	}
	d := s.Disk(r.Disk)
	switch {
	case d == nil || !d.FastFenced:
		return fmt.Errorf("volume %s: its disk %s is not enrolled as fast-fenced: run 'skein disk enrol %s'", r.Name, r.Disk, r.Disk)
	case v.Asked.Disk != "" && v.Asked.Disk != d.WWN && v.Asked.Disk != d.Alias:
		return fmt.Errorf("volume %s is on disk %s, not on %s as driver_opts.disk says", r.Name, d.Name(), v.Asked.Disk)
	}
	for i := range s.Services {
		if o := &s.Services[i]; o.Stack != svc.Stack && slices.ContainsFunc(o.Volumes, func(x Volume) bool { return x.Disk == r.Disk }) {
			return fmt.Errorf("volume %s belongs to %s: a volume has one service; remove that one or make another volume", r.Name, o.FullName())
		}
	}
	for i := range s.Instances {
		in := &s.Instances[i]
		if in.Spec.FullName() != svc.FullName() && slices.ContainsFunc(in.Spec.Volumes, func(x Volume) bool { return x.Disk == r.Disk }) {
			return fmt.Errorf("volume %s is still in use by %s on %s, which is being stopped: try again when it has gone", r.Name, in.ID, in.Node)
		}
	}
	v.Disk, v.FS, v.UUID = r.Disk, r.FS, r.UUID
	return nil
}

// command is how the volume that is asked for would be made.
func (a *VolumeAsked) command(name string) string {
	text := "skein volume create " + name + " --disk " + cmp.Or(a.Disk, "DISK")
	if a.FS != "" {
		text += " --fs " + a.FS
	}
	return text
}
