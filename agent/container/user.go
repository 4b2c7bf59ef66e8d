package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	contfs "github.com/containerd/continuity/fs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxAccounts bounds /etc/passwd and /etc/group of an image, in bytes.
const maxAccounts = 1 << 20

// lookupUser turns what an image or a Compose file says (uid, name, uid:gid, name:group) into numbers, by
// the image's own /etc/passwd and /etc/group. Without a user it is root.
func lookupUser(rootfs, user string) (u specs.User, home string, err error) {
	passwd, err := readAccounts(rootfs, "/etc/passwd")
	if err != nil {
		return u, "", err
	}
	group, err := readAccounts(rootfs, "/etc/group")
	if err != nil {
		return u, "", err
	}
	return resolveUser(user, passwd, group)
}

// readAccounts reads a file of the image, following its links as the container would. The image does not
// change any more, so there is no race between the look-up and the open.
func readAccounts(rootfs, file string) ([]byte, error) {
	p, err := contfs.RootPath(rootfs, file)
	if err != nil {
		return nil, fmt.Errorf("image's %s: %w", file, err)
	}
	st, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image's %s: %w", file, err)
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, fmt.Errorf("image's %s: %w", file, err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxAccounts))
}

func resolveUser(user string, passwd, group []byte) (u specs.User, home string, err error) {
	name, groupName, hasGroup := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	uid, numErr := parseID(name)
	found := false
	accounts(passwd, func(f []string) bool { // name:password:uid:gid:comment:home:shell
		if len(f) < 6 {
			return true
		}
		id, err := parseID(f[2])
		if err != nil || (f[0] != name && (numErr != nil || id != uid)) {
			return true
		}
		gid, err := parseID(f[3])
		if err != nil {
			return true
		}
		u.UID, u.GID, u.Username, home, found = id, gid, f[0], f[5], true
		return false
	})
	if !found {
		if numErr != nil {
			return u, "", fmt.Errorf("user %q: the image's /etc/passwd does not have it; use a number", name)
		}
		u.UID = uid
	}
	accounts(group, func(f []string) bool { // name:password:gid:members
		if len(f) < 4 {
			return true
		}
		gid, err := parseID(f[2])
		if err == nil && u.Username != "" && slices.Contains(strings.Split(f[3], ","), u.Username) && gid != u.GID &&
			!slices.Contains(u.AdditionalGids, gid) && len(u.AdditionalGids) < 64 {
			u.AdditionalGids = append(u.AdditionalGids, gid)
		}
		return true
	})
	if hasGroup && groupName != "" {
		gid, err := parseID(groupName)
		if err != nil {
			ok := false
			accounts(group, func(f []string) bool {
				if len(f) >= 3 && f[0] == groupName {
					if gid, err = parseID(f[2]); err == nil {
						ok = true
					}
				}
				return !ok
			})
			if !ok {
				return u, "", fmt.Errorf("group %q: the image's /etc/group does not have it; use a number", groupName)
			}
		}
		// Docker's rule: a named group replaces all that the user is in.
		u.GID, u.AdditionalGids = gid, nil
	}
	if home == "" {
		home = "/"
	}
	u.Username = "" // for Windows in the OCI specification
	return u, home, nil
}

func accounts(data []byte, line func(fields []string) bool) {
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		if t := strings.TrimSpace(sc.Text()); t != "" && t[0] != '#' && !line(strings.Split(t, ":")) {
			return
		}
	}
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err
}
