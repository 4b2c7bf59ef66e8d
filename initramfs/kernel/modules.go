package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/skein-os/skein/initramfs/debian"
)

// Module is a kernel module to be loaded.
type Module struct {
	Name string // with underscores: virtio_net
	Path string // relative to /lib/modules/<version>, uncompressed: kernel/drivers/net/virtio_net.ko
	Data []byte // uncompressed, with its signature
}

// Modules is the folder of one kernel's modules.
type Modules struct {
	// Version is the kernel's release, as uname -r tells: 6.1.0-56-amd64.
	Version string

	dir     string
	paths   map[string]string // name -> path relative to dir, as in the package (.ko, .ko.xz ...)
	builtin map[string]bool
	info    map[string]modinfo // filled on demand
	aliases map[string][]string
}

// modinfo is what a module says of itself in its .modinfo section.
type modinfo struct {
	depends []string // hard: symbols are missing without them
	pre     []string // soft: the module asks for them by name when it starts
	aliases []string
}

// maxModule bounds an unpacked module, bytes; the largest of Debian's is about 15 MB.
const maxModule = 256 << 20

// Open reads the module tree of an unpacked kernel package. There must be exactly one kernel in it.
func Open(root string) (*Modules, error) {
	var dir string
	for _, base := range []string{"lib/modules", "usr/lib/modules"} {
		list, err := os.ReadDir(filepath.Join(root, base))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(list) != 1 || dir != "" {
			return nil, fmt.Errorf("%s: want the modules of one kernel", root)
		}
		dir = filepath.Join(root, base, list[0].Name())
	}
	if dir == "" {
		return nil, fmt.Errorf("%s has no kernel modules", root)
	}
	m := &Modules{Version: filepath.Base(dir), dir: dir, paths: map[string]string{}, builtin: map[string]bool{}, info: map[string]modinfo{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if name, ok := moduleName(p); ok {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			m.paths[name] = rel
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(list)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			m.builtin[name] = true
		}
	}
	return m, nil
}

// moduleName of .../virtio-rng.ko.xz is virtio_rng: the kernel takes - and _ as the same.
func moduleName(p string) (string, bool) {
	base := filepath.Base(p)
	for _, ext := range []string{".xz", ".zst", ".gz"} {
		base = strings.TrimSuffix(base, ext)
	}
	name, ok := strings.CutSuffix(base, ".ko")
	return strings.ReplaceAll(name, "-", "_"), ok
}

// Closure returns the wanted modules and all they depend on, dependencies first; among equals in order
// of the names wanted. Names that are built in are left out. Unknown names are all reported.
func (m *Modules) Closure(wanted []string) ([]Module, error) {
	var out []Module
	var unknown []string
	state := map[string]int{} // 1: on the way, 2: done
	var visit func(name, by string) error
	visit = func(name, by string) error {
		name = strings.ReplaceAll(name, "-", "_")
		switch {
		case state[name] == 2 || m.builtin[name]:
			return nil
		case state[name] == 1:
			return nil // soft dependencies may form a circle; hard ones cannot be built that way
		case m.paths[name] == "":
			unknown = append(unknown, name+by)
			return nil
		}
		state[name] = 1
		mod, info, err := m.read(name)
		if err != nil {
			return err
		}
		by = " (needed by " + name + ")"
		for _, soft := range info.pre {
			if soft = m.soft(soft); soft == "" {
				continue
			}
			if err := visit(soft, by); err != nil {
				return err
			}
		}
		for _, dep := range info.depends {
			if err := visit(dep, by); err != nil {
				return err
			}
		}
		state[name] = 2
		out = append(out, mod)
		return nil
	}
	for _, name := range wanted {
		if err := visit(name, ""); err != nil {
			return nil, err
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("kernel %s has these neither as modules nor built in: %s", m.Version, strings.Join(unknown, ", "))
	}
	return out, nil
}

// soft resolves a soft dependency as modprobe does, by module name or alias. Of several modules with
// the alias the generic one is taken: the others are for certain processors and refuse to load on the
// rest. "" means that there is nothing to load.
func (m *Modules) soft(name string) string {
	norm := strings.ReplaceAll(name, "-", "_")
	if m.paths[norm] != "" || m.builtin[norm] {
		return norm
	}
	if m.aliases == nil {
		aliases := map[string][]string{}
		for n := range m.paths {
			_, info, err := m.read(n)
			if err != nil {
				continue // a module that cannot be used provides nothing; asked for by name, it is an error
			}
			for _, a := range info.aliases {
				aliases[a] = append(aliases[a], n)
			}
		}
		m.aliases = aliases
	}
	have := m.aliases[name]
	sort.Strings(have)
	if i := slices.IndexFunc(have, func(n string) bool { return strings.HasSuffix(n, "_generic") }); i >= 0 {
		return have[i]
	}
	if len(have) > 0 {
		return have[0]
	}
	return ""
}

func (m *Modules) read(name string) (Module, modinfo, error) {
	rel := m.paths[name]
	data, err := m.load(rel)
	if err != nil {
		return Module{}, modinfo{}, fmt.Errorf("module %s: %w", rel, err)
	}
	info, ok := m.info[name]
	if !ok {
		if info, err = parseModule(data); err != nil {
			return Module{}, modinfo{}, fmt.Errorf("module %s: %w", rel, err)
		}
		m.info[name] = info
	}
	plain := rel[:strings.LastIndex(rel, ".ko")+len(".ko")]
	return Module{Name: name, Path: filepath.ToSlash(plain), Data: data}, info, nil
}

func (m *Modules) load(rel string) ([]byte, error) {
	f, err := os.Open(filepath.Join(m.dir, rel))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := debian.Decompress(f, rel)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("unpacks to over %d bytes", maxModule)
	}
	return data, err
}

// parseModule reads .modinfo, and refuses a module that carries debug information: it would make the
// archive several times larger.
func parseModule(data []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return modinfo{}, err
	}
	defer f.Close()
	if f.Section(".debug_info") != nil {
		return modinfo{}, errors.New("carries debug information; use the distribution's stripped module")
	}
	s := f.Section(".modinfo")
	if s == nil {
		return modinfo{}, errors.New("no .modinfo section")
	}
	if s.Type == elf.SHT_NOBITS || s.Size > uint64(len(data)) {
		return modinfo{}, errors.New("damaged .modinfo section")
	}
	raw, err := s.Data()
	if err != nil {
		return modinfo{}, err
	}
	return parseModinfo(raw), nil
}

// parseModinfo reads key=value strings that are separated by NULs.
func parseModinfo(raw []byte) modinfo {
	var info modinfo
	for field := range strings.SplitSeq(string(raw), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					info.depends = append(info.depends, d)
				}
			}
		case "softdep":
			info.pre = append(info.pre, preDeps(value)...)
		case "alias":
			info.aliases = append(info.aliases, value)
		}
	}
	return info
}

// preDeps takes what is after "pre:" and before "post:" (modprobe.d(5)).
func preDeps(softdep string) []string {
	var pre []string
	in := false
	for word := range strings.FieldsSeq(softdep) {
		switch word {
		case "pre:":
			in = true
		case "post:":
			in = false
		default:
			if in {
				pre = append(pre, word)
			}
		}
	}
	return pre
}
