package pid1

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

	"golang.org/x/sys/unix"
)

const (
	modulesPath = "/etc/skein/modules.json"
	modulesDir  = "/lib/modules"
)

// moduleList is what the image says about kernel modules.
type moduleList struct {
	Kernel string   `json:"kernel"` // the release the modules were built for
	Load   []string `json:"load"`   // files below /lib/modules/<Kernel>, each after those it depends on
}

func readModules(path string) (moduleList, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return moduleList{}, fmt.Errorf("read the list of modules: %w", err)
	}
	return parseModules(data)
}

func parseModules(data []byte) (moduleList, error) {
	var l moduleList
	if err := json.Unmarshal(data, &l); err != nil {
		return moduleList{}, fmt.Errorf("read the list of modules: %w", err)
	}
	if !filepath.IsLocal(l.Kernel) {
		return moduleList{}, fmt.Errorf("read the list of modules: kernel %q is not a release", l.Kernel)
	}
	for _, m := range l.Load {
		if !filepath.IsLocal(m) {
			return moduleList{}, fmt.Errorf("read the list of modules: %q leads out of the folder of modules", m)
		}
	}
	return l, nil
}

func (l moduleList) file(module string) string { return filepath.Join(modulesDir, l.Kernel, module) }

// moduleName is the kernel's name of a module file: it has underscores where the file may have dashes.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// watchdogs are the drivers of hardware that can reset the machine, in order of preference, and the last
// one, which is the kernel's own timer: better than none, but as dead as the kernel.
var watchdogs = []string{"i6300esb", "iTCO_wdt", "wdat_wdt", "sp5100_tco", "hpwdt", "ipmi_watchdog", "softdog"}

// withNeeds returns the files to load for the named module, itself last: from the order of the list, and from
// what the modules say about each other. It is empty when the list does not have the module.
func (l moduleList) withNeeds(name string, needs func(file string) []string) []string {
	want := map[string]bool{name: true}
	var files []string
	for _, m := range slices.Backward(l.Load) { // what is needed stands before what needs it
		if !want[moduleName(m)] {
			continue
		}
		files = append(files, m)
		for _, n := range needs(l.file(m)) {
			want[strings.ReplaceAll(n, "-", "_")] = true
		}
	}
	slices.Reverse(files)
	if len(files) == 0 || moduleName(files[len(files)-1]) != name {
		return nil
	}
	return files
}

// moduleNeeds reads from a module file which others it depends on. A file that cannot be read needs nothing:
// loading it then fails with a clearer message.
func moduleNeeds(file string) []string {
	f, err := elf.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil
	}
	data, err := section.Data()
	if err != nil {
		return nil
	}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ",")
		}
	}
	return nil
}

// loadModule loads one module. present is false, without an error, when the hardware it drives is not here.
func loadModule(file, params string) (present bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	switch err := unix.FinitModule(int(f.Fd()), params, 0); {
	case err == nil, errors.Is(err, unix.EEXIST): // loaded before, or built in
		return true, nil
	case errors.Is(err, unix.ENODEV):
		return false, nil
	case errors.Is(err, unix.ENOENT):
		return false, fmt.Errorf("load module %s: it needs a symbol that no loaded module has: the order in %s is wrong", moduleName(file), modulesPath)
	default:
		return false, fmt.Errorf("load module %s: %w", moduleName(file), err)
	}
}

// loadModules loads all modules of the list in its order. What fails is reported and the rest goes on: which
// of them this machine cannot do without is for those to say who miss it.
func (m *Machine) loadModules(list moduleList) {
	loaded := 0
	for _, file := range list.Load {
		if isWatchdog(file) {
			continue // its moment was before; a second one would count down unfed
		}
		present, err := loadModule(list.file(file), "")
		switch {
		case err != nil:
			m.report.ModulesFailed = append(m.report.ModulesFailed, err.Error())
			m.console.logf("%v", err)
		case !present:
			m.report.ModulesAbsent = append(m.report.ModulesAbsent, moduleName(file))
		default:
			loaded++
		}
	}
	m.report.ModulesLoaded = loaded
	m.console.logf("%d modules loaded, %d without their hardware, %d failed", loaded, len(m.report.ModulesAbsent), len(m.report.ModulesFailed))
}

func isWatchdog(file string) bool { return slices.Contains(watchdogs, moduleName(file)) }
