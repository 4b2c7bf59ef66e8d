package container

import (
	"fmt"
	"slices"
	"strings"
)

// defaultCapabilities are what usual server images need to change to their own user, own their files and
// listen on a low port. Left out of Docker's default set: NET_RAW (forges packets), MKNOD, SYS_CHROOT,
// AUDIT_WRITE, SETPCAP and SETFCAP. They mean something to root in the container only; exec as another
// user drops them.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID",
}

// allCapabilities is include/uapi/linux/capability.h up to Linux 6.1.
var allCapabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER",
	"CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
	"CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
	"CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE",
	"CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

// capabilities is the default set, less drop, plus add, sorted. "ALL" stands for all, as in Compose; what
// is added by name stays even if ALL is dropped.
func capabilities(add, drop []string) ([]string, error) {
	set := map[string]bool{}
	for _, c := range defaultCapabilities {
		set[c] = true
	}
	apply := func(list []string, on bool) error {
		for _, c := range list {
			c = strings.ToUpper(c)
			if c == "ALL" {
				for _, k := range allCapabilities {
					set[k] = on
				}
				continue
			}
			if !strings.HasPrefix(c, "CAP_") {
				c = "CAP_" + c
			}
			if !slices.Contains(allCapabilities, c) {
				return fmt.Errorf("capability %q: there is none of this name; see capabilities(7)", c)
			}
			set[c] = on
		}
		return nil
	}
	// ALL first, then names, so that the order of the lists does not matter.
	isAll := func(c string) bool { return strings.EqualFold(c, "ALL") }
	var all, names struct{ add, drop []string }
	for _, c := range add {
		if isAll(c) {
			all.add = append(all.add, c)
		} else {
			names.add = append(names.add, c)
		}
	}
	for _, c := range drop {
		if isAll(c) {
			all.drop = append(all.drop, c)
		} else {
			names.drop = append(names.drop, c)
		}
	}
	for _, step := range []struct {
		list []string
		on   bool
	}{{all.add, true}, {all.drop, false}, {names.drop, false}, {names.add, true}} {
		if err := apply(step.list, step.on); err != nil {
			return nil, err
		}
	}
	out := []string{}
	for _, c := range allCapabilities {
		if set[c] {
			out = append(out, c)
		}
	}
	return out, nil
}
