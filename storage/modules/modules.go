// Package modules loads the kernel modules of storage when they are needed. The image has them beside those that
// every boot loads (Demand in /etc/skein/modules.json): a machine without a SAN does not spend time on them.
// The image has no modprobe, so the kernel cannot load them by itself either, as it would at mount(2).
package modules

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// What each use needs, as names for Load.
var (
	ISCSI     = []string{"iscsi_tcp", "sd_mod", "sg", "scsi_dh_alua"}
	NVMe      = []string{"nvme_tcp"}
	Multipath = []string{"dm_multipath", "dm_round_robin", "dm_queue_length", "dm_service_time"}
	Ext4      = []string{"ext4"}
	XFS       = []string{"xfs"}
	NFS       = []string{"nfs", "nfsv3", "nfsv4"}
	GFS2      = []string{"dlm", "gfs2"}
)

const (
	listPath = "/etc/skein/modules.json"
	dir      = "/lib/modules"
)

type list struct {
	Kernel       string
	Load, Demand []string
}

var mu sync.Mutex

// Load loads the named modules of the image and what they need. Those that are loaded or built in are left alone.
func Load(names ...string) error {
	mu.Lock()
	defer mu.Unlock()
	data, err := os.ReadFile(listPath)
	if err != nil {
		return fmt.Errorf("read the list of kernel modules: %w", err)
	}
	l, err := parse(data)
	if err != nil {
		return err
	}
	files, err := l.plan(names, func(file string) ([]string, error) { return needs(filepath.Join(dir, l.Kernel, file)) })
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := insert(filepath.Join(dir, l.Kernel, file)); err != nil {
			return fmt.Errorf("load kernel module %s: %w", moduleName(file), err)
		}
	}
	return nil
}

func parse(data []byte) (list, error) {
	var l list
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("%s: %w", listPath, err)
	}
	for _, p := range append([]string{l.Kernel}, l.Demand...) {
		if !filepath.IsLocal(p) {
			return l, fmt.Errorf("%s: %q leads out of the folder of modules", listPath, p)
		}
	}
	return l, nil
}

// plan lists the files to load in the order of the list, which has what is needed before what needs it.
func (l list) plan(names []string, needs func(file string) ([]string, error)) ([]string, error) {
	want := map[string]bool{}
	for _, n := range names {
		want[strings.ReplaceAll(n, "-", "_")] = true
	}
	have := map[string]bool{}
	for _, f := range slices.Concat(l.Load, l.Demand) {
		have[moduleName(f)] = true
	}
	for _, n := range names {
		if !have[strings.ReplaceAll(n, "-", "_")] {
			return nil, fmt.Errorf("the image has no kernel module %s: build it with 'skein image build --modules %s'", n, n)
		}
	}
	var files []string
	for _, f := range slices.Backward(l.Demand) {
		if !want[moduleName(f)] {
			continue
		}
		files = append(files, f)
		more, err := needs(f)
		if err != nil {
			return nil, fmt.Errorf("kernel module %s: %w", moduleName(f), err)
		}
		for _, n := range more {
			want[strings.ReplaceAll(n, "-", "_")] = true
		}
	}
	slices.Reverse(files)
	return files, nil
}

func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// needs reads what a module depends on, and what it asks the kernel for by name when it starts (softdep pre).
func needs(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	return parseNeeds(data), nil
}

func parseNeeds(data []byte) []string {
	var out []string
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "depends":
			out = append(out, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			pre := false
			for w := range strings.FieldsSeq(value) {
				switch {
				case strings.HasSuffix(w, ":"):
					pre = w == "pre:"
				case pre:
					// A soft dependency may be an alias: crc32c, also as crypto-crc32c, is crc32c_generic here.
					w = strings.TrimPrefix(w, "crypto-")
					out = append(out, w, w+"_generic")
				}
			}
		}
	}
	return out
}

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
