package target

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

const (
	config = "/sys/kernel/config/target"
	tpg    = config + "/iscsi/" + IQN + "/tpgt_1"
	// Root is the kernel's folder for what it keeps of targets.
	Root = "/var/target"
)

func core(number int) string { return fmt.Sprintf("%s/core/iblock_%d/lun%d", config, number, number) }

// serial is a unit's serial number (VPD page 0x80). The kernel makes its worldwide name of the first 25 digits.
func serial(number int) string { return fmt.Sprintf("%08x-5ce1-4000-8000-000000000000", number+1) }

func write(file, text string) error { return os.WriteFile(file, []byte(text), 0) }

// Up configures the target. restore: with the registrations that were saved.
func Up(luns []LUN, portals []netip.Addr, restore bool) error {
	if err := os.MkdirAll(Root+"/pr", 0o700); err != nil {
		return err
	}
	for _, l := range luns {
		if err := unit(l, restore); err != nil {
			return fmt.Errorf("LUN %d: %w", l.Number, err)
		}
	}
	if err := os.MkdirAll(tpg, 0o755); err != nil {
		return err
	}
	for attribute, value := range map[string]string{
		"authentication": "0", "generate_node_acls": "1", "demo_mode_write_protect": "0", "cache_dynamic_acls": "1",
	} {
		if err := write(tpg+"/attrib/"+attribute, value); err != nil {
			return err
		}
	}
	for _, l := range luns {
		dir := fmt.Sprintf("%s/lun/lun_%d", tpg, l.Number)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(core(l.Number), dir+"/disk"); err != nil {
			return err
		}
	}
	for _, a := range portals {
		if err := os.MkdirAll(portal(a), 0o755); err != nil {
			return err
		}
	}
	return write(tpg+"/enable", "1")
}

func portal(a netip.Addr) string { return tpg + "/np/" + netip.AddrPortFrom(a, Port).String() }

func unit(l LUN, restore bool) error {
	dir := core(l.Number)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range [][2]string{
		{"control", "udev_path=" + l.Device}, {"wwn/vpd_unit_serial", serial(l.Number)}, {"wwn/vendor_id", "SKEIN"},
		{"enable", "1"}, {"wwn/product_id", "lab"},
	} {
		if err := write(dir+"/"+f[0], f[1]); err != nil && f[0] != "wwn/vendor_id" && f[0] != "wwn/product_id" {
			return err
		}
	}
	if !restore {
		return nil
	}
	saved, err := savedRegistrations(l.Number)
	if err != nil {
		return err
	}
	for _, r := range saved {
		if err := write(dir+"/pr/res_aptpl_metadata", r); err != nil {
			return fmt.Errorf("restore a registration: %w", err)
		}
	}
	return nil
}

// Down takes the target away, and all that it knew and had not saved. forget: what it saved, too.
func Down(luns []LUN, portals []netip.Addr, forget bool) error {
	var errs []error
	remove := func(name string) {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := write(tpg+"/enable", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, a := range portals {
		remove(portal(a))
	}
	for _, l := range luns {
		remove(fmt.Sprintf("%s/lun/lun_%d/disk", tpg, l.Number))
		remove(fmt.Sprintf("%s/lun/lun_%d", tpg, l.Number))
	}
	remove(tpg)
	remove(filepath.Dir(tpg))
	for _, l := range luns {
		remove(core(l.Number))
		remove(filepath.Dir(core(l.Number)))
		if forget {
			remove(saveFile(l.Number))
		}
	}
	return errors.Join(errs...)
}

func saveFile(number int) string { return filepath.Join(Root, "pr", "aptpl_"+serial(number)) }

// savedRegistrations are a LUN's, one line each, as the kernel takes them.
func savedRegistrations(number int) ([]string, error) {
	data, err := os.ReadFile(saveFile(number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseSaved(string(data)), nil
}

// parseSaved reads the kernel's file (Linux, drivers/target/target_core_pr.c, core_scsi3_update_aptpl_buf).
func parseSaved(text string) []string {
	var out, one []string
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "PR_REG_START"):
			one = nil
		case strings.HasPrefix(line, "PR_REG_END"):
			out = append(out, strings.Join(one, ","))
		case strings.Contains(line, "="):
			one = append(one, line)
		}
	}
	return out
}

// State tells what is there now.
func State(luns []LUN, portals []netip.Addr) (Status, error) {
	s := Status{IQN: IQN}
	for _, a := range portals {
		s.Portals = append(s.Portals, netip.AddrPortFrom(a, Port).String())
	}
	for _, l := range luns {
		saved, err := savedRegistrations(l.Number)
		if err != nil {
			return s, err
		}
		l.Saved = len(saved)
		s.LUNs = append(s.LUNs, l)
	}
	return s, nil
}
