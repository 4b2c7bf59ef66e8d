package target

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/qemu/san"
)

// Places in the kernel's configuration of the target (Documentation/target in its source).
const (
	config = "/sys/kernel/config/target"
	group  = config + "/iscsi/" + san.Target + "/tpgt_1"
	// state is where the state disk is mounted; the kernel writes registrations to its folder pr.
	state = "/var/target"
)

func coreOf(lun int) string { return fmt.Sprintf("%s/core/iblock_%d/lun%d", config, lun, lun) }
func lunOf(lun int) string  { return fmt.Sprintf("%s/lun/lun_%d", group, lun) }
func kept(lun int) string   { return filepath.Join(state, "pr", "aptpl_"+san.Serial(lun)) }

// attributes of the portal group: everybody may log in, and write.
var attributes = map[string]string{
	"authentication": "0", "generate_node_acls": "1", "demo_mode_write_protect": "0", "cache_dynamic_acls": "1",
}

func write(file, text string) error {
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		return fmt.Errorf("write %q: %w", text, err)
	}
	return nil
}

// up configures the target and opens it, last.
func (a *Array) up() error {
	var registered []registration
	for _, l := range a.luns {
		core := coreOf(l.number)
		if err := os.MkdirAll(core, 0o755); err != nil {
			return err
		}
		if err := errors.Join(write(core+"/control", "udev_path="+l.disk.device), write(core+"/wwn/vpd_unit_serial", san.Serial(l.number)),
			write(core+"/enable", "1")); err != nil {
			return fmt.Errorf("LUN %d: %w", l.number, err)
		}
		if l.unreserved {
			if err := write(core+"/attrib/emulate_pr", "0"); err != nil {
				return fmt.Errorf("LUN %d: %w", l.number, err)
			}
			continue // it has no registrations to restore
		}
		data, err := os.ReadFile(kept(l.number))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, r := range parseAPTPL(data) {
			if err := write(core+"/pr/res_aptpl_metadata", r.metadata); err != nil {
				return fmt.Errorf("LUN %d: restore the registration of %s: %w", l.number, r.initiator, err)
			}
			registered = append(registered, r)
		}
	}
	if err := os.MkdirAll(group, 0o755); err != nil {
		return err
	}
	for name, value := range attributes {
		if err := write(group+"/attrib/"+name, value); err != nil {
			return err
		}
	}
	for _, name := range initiators(registered) {
		if err := os.MkdirAll(group+"/acls/"+name, 0o755); err != nil {
			return err
		}
	}
	for _, l := range a.luns {
		if err := a.present(l, !l.withdrawn); err != nil {
			return fmt.Errorf("LUN %d: %w", l.number, err)
		}
	}
	if err := a.authenticate(); err != nil {
		return err
	}
	// Portals come last and go first: an initiator must not find one without the target behind it. It would be told
	// that there is no such target, and some take that as final.
	if err := write(group+"/enable", "1"); err != nil {
		return err
	}
	for _, p := range a.portals {
		if p.Open {
			if err := os.MkdirAll(portalOf(p.Addr), 0o755); err != nil {
				return fmt.Errorf("open the portal %s: %w", p.Addr, err)
			}
		}
	}
	return nil
}

// present gives a LUN to all initiators, or takes it from them.
func (a *Array) present(l *lun, there bool) error {
	l.withdrawn = !there
	acls, err := filepath.Glob(group + "/acls/*")
	if err != nil {
		return err
	}
	if !there {
		var gone []string
		for _, acl := range acls {
			mapped := fmt.Sprintf("%s/lun_%d", acl, l.number)
			gone = append(gone, mapped+"/disk", mapped)
		}
		gone = append(gone, lunOf(l.number)+"/disk", lunOf(l.number))
		for _, name := range gone {
			if err := remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	link := func(folder, to string) error {
		err := errors.Join(os.MkdirAll(folder, 0o755), os.Symlink(to, folder+"/disk"))
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if err := link(lunOf(l.number), coreOf(l.number)); err != nil {
		return err
	}
	for _, acl := range acls {
		if err := link(fmt.Sprintf("%s/lun_%d", acl, l.number), lunOf(l.number)); err != nil {
			return fmt.Errorf("for %s: %w", filepath.Base(acl), err)
		}
	}
	return nil
}

// authenticate demands CHAP of who logs in from now on, or does not.
func (a *Array) authenticate() error {
	acls, err := filepath.Glob(group + "/acls/*")
	if err != nil {
		return err
	}
	want, user, secret := "1", a.user, a.secret
	if user == "" {
		want, user, secret = "0", "NULL", "NULL" // the kernel's word for none
	}
	for _, of := range append(acls, group) {
		if err := errors.Join(write(of+"/auth/userid", user), write(of+"/auth/password", secret)); err != nil {
			return fmt.Errorf("CHAP: %w", err)
		}
		if err := write(of+"/attrib/authentication", want); err != nil && of == group {
			return fmt.Errorf("CHAP: %w", err)
		}
	}
	return nil
}

func portalOf(at netip.AddrPort) string { return group + "/np/" + at.String() }

// down ends all sessions and takes the configuration away: what the target had not kept is gone. It takes away what
// there is, so that it also cleans up after an up that failed.
func (a *Array) down() error {
	for _, p := range a.portals {
		if err := remove(portalOf(p.Addr)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("close the portal %s: %w", p.Addr, err)
		}
	}
	if err := write(group+"/enable", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var gone []string // in this order
	for _, pattern := range []string{"acls/*/lun_*/disk", "acls/*/lun_*", "acls/*", "lun/lun_*/disk", "lun/lun_*"} {
		found, err := filepath.Glob(filepath.Join(group, pattern))
		if err != nil {
			return err
		}
		gone = append(gone, found...)
	}
	gone = append(gone, group, filepath.Dir(group))
	for _, l := range a.luns {
		gone = append(gone, coreOf(l.number), filepath.Dir(coreOf(l.number)))
	}
	for _, name := range gone {
		if err := remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take the target down: %w", err)
		}
	}
	return nil
}

// remove removes a folder or a link. os.Remove would tell of the second way it tried.
func remove(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return unix.Unlink(name)
	}
	if err := unix.Rmdir(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// refuse closes a portal and resets its connections.
func refuse(at netip.AddrPort) error {
	if err := remove(portalOf(at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list the connections of portal %s: %w", at, err)
	}
	for _, s := range sockets {
		if s.ID.SourcePort != at.Port() || !s.ID.Source.Equal(at.Addr().AsSlice()) {
			continue
		}
		err := netlink.SocketDestroy(&net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}, &net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("reset the connection of %s to portal %s: %w", s.ID.Destination, at, err)
		}
	}
	return nil
}

// describe adds what the kernel tells of a LUN's reservations.
func describe(l *san.LUN) error {
	pr := coreOf(l.Number) + "/pr/"
	registered, err := os.ReadFile(pr + "res_pr_registered_i_pts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(registered)) {
		line = strings.TrimSpace(line)
		if r, ok := strings.CutPrefix(line, "iSCSI Node: "); ok {
			l.Registered = append(l.Registered, r)
		}
	}
	if l.Holder, err = after(pr+"res_holder", "Initiator: "); err != nil || l.Holder == "" {
		return err
	}
	l.Type, err = after(pr+"res_pr_type", "Type: ")
	return err
}

// after returns what follows the words in a file of one line, nothing if they are not there.
func after(file, words string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(data), words)
	return strings.TrimSpace(rest), nil
}

// sessions are the initiators that are logged in, each once: of those with an ACL the kernel lists one session.
func sessions() ([]string, error) {
	data, err := os.ReadFile(group + "/dynamic_sessions")
	if err != nil {
		return nil, err
	}
	names := strings.FieldsFunc(string(data), func(r rune) bool { return r == 0 || r == '\n' })
	infos, err := filepath.Glob(group + "/acls/*/info")
	if err != nil {
		return nil, err
	}
	for _, f := range infos {
		info, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(info), "LIO Session ID") {
			names = append(names, filepath.Base(filepath.Dir(f)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// disks are the machine's by serial number.
func disks() (map[string]disk, error) {
	serials, err := filepath.Glob("/sys/class/block/vd*/serial")
	if err != nil {
		return nil, err
	}
	found := map[string]disk{}
	for _, f := range serials {
		serial, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		folder := filepath.Dir(f)
		text, err := os.ReadFile(folder + "/size")
		if err != nil {
			return nil, err
		}
		sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s/size: %w", folder, err)
		}
		found[strings.TrimSpace(string(serial))] = disk{"/dev/" + filepath.Base(folder), sectors * sector}
	}
	return found, nil
}

type disk struct {
	device string
	size   int64 // bytes
}
