package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/skein-os/skein/agent/cluster"
)

// Warning tells of something in a Compose file that has no effect, or another one than elsewhere.
type Warning struct {
	File         string
	Line, Column int
	Text         string
}

func (w Warning) String() string {
	return fmt.Sprintf("%s:%d:%d: %s", w.File, w.Line, w.Column, w.Text)
}

// FileError is one thing in a Compose file that has to be put right before it can be deployed. Parse
// returns several joined together, in the order of the file.
type FileError struct {
	File         string
	Line, Column int // 1 is the first
	Text         string
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// Parse reads a Compose file and makes the services of the stack of it. It runs where the operator is:
// env_file and configs.file are read beside the file and their content travels with the service. env
// replaces ${NAME}.
//
// The meaning of the keys is that of the Compose specification (compose-go interprets them) with these
// differences and defaults:
//
//   - A named volume is one that 'skein volume create' made: volumes: {data: {driver: skein}} is volume STACK_data,
//     or that of its name:. driver_opts size, fs and disk say what it must be. Its service has one replica, and its
//     safety class is storage.
//   - build, bind mounts and other named volumes, privileged, devices and the host's namespaces are errors; any
//     other key that Skein does not act on is a Warning, never silence. Keys that begin with x- are the
//     operator's own, but for x-skein.
//   - x-skein.health: http://:80/health or tcp://:5432, a check that the node makes itself instead of the
//     command of healthcheck, whose times it uses.
//   - The root file system is read-only unless read_only is false; tmpfs gives places to write.
//   - x-skein.addresses: addresses that move with the service. x-skein.safety: lease (default: the old
//     owner's address is proven dark before another node takes it), storage (what a service with a volume has: its
//     disks are taken from the old owner) or power (its power must be off).
//   - A port without a published number is published under its own number.
//   - restart_policy: condition any, delay 1 s, 3 attempts within 60 s, then the planner moves it.
//     A job restarts on-failure.
//   - healthcheck: interval and timeout 30 s, 3 retries, start_interval 5 s. stop_grace_period: 10 s.
//
// The error, if any, is one or more *FileError joined, or of the context.
func Parse(ctx context.Context, filename string, data []byte, stack string, env map[string]string) ([]cluster.Service, []Warning, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	dir := filepath.Dir(filename)
	if filename == "-" || filename == "" {
		filename, dir = "standard input", "."
	}
	f := newFile(filename, dir, env)
	if !validName.MatchString(stack) {
		return nil, nil, fmt.Errorf("stack name %q: use lower-case letters, digits and dashes, it becomes part of host names", stack)
	}
	root := f.parse(data)
	if f.failed() {
		return f.result(nil)
	}
	f.checkKeys(root)
	f.checkValues(root)
	f.checkVolumes(root)
	if f.failed() {
		return f.result(nil)
	}
	project, err := load(ctx, f, root, stack)
	if err != nil {
		f.loaderError(err)
		return f.result(nil)
	}
	return f.result(f.services(project, root))
}

// load has compose-go interpret the tree. It is a large parser fed with what people wrote: should it
// panic, that is an error of this file, not the end of the program.
func load(ctx context.Context, f *file, root map[string]any, stack string) (p *types.Project, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the Compose library cannot cope with this file: %v", r)
		}
	}()
	// What has no effect shall not be an error either.
	for _, k := range []string{"version", "name", "networks", "secrets"} {
		delete(root, k)
	}
	services, _ := root["services"].(map[string]any)
	for _, v := range services {
		if s, ok := v.(map[string]any); ok {
			delete(s, "networks")
			delete(s, "secrets")
		}
	}
	env := types.Mapping{}
	for k, v := range f.env {
		env[k] = v
	}
	details := types.ConfigDetails{
		WorkingDir:  f.dir,
		ConfigFiles: []types.ConfigFile{{Filename: f.name, Config: root}},
		Environment: env,
	}
	return loader.LoadWithContext(ctx, details, func(o *loader.Options) {
		o.SetProjectName(stack, true)
		o.SkipInclude = true
		o.SkipNormalization = true
		o.SkipResolveLabels = true
	})
}

// file is one Compose file while it is being read.
type file struct {
	name, dir string
	env       map[string]string
	pos       map[string]position // of each key and item, by its path: services.web.ports.0
	errs      []*FileError
	warnings  []Warning
	nodes     int             // visited, aliases counted each time
	expanded  int             // bytes that interpolation made
	active    map[any]bool    // anchors being expanded
	unset     map[string]bool // variables that were warned of
}

type position struct{ line, column int }

func newFile(name, dir string, env map[string]string) *file {
	return &file{name: name, dir: dir, env: env, pos: map[string]position{}, active: map[any]bool{}, unset: map[string]bool{}}
}

// at finds the position of path, or of the nearest thing around it.
func (f *file) at(path string) position {
	for {
		if p, ok := f.pos[path]; ok {
			return p
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return position{1, 1}
		}
		path = path[:i]
	}
}

func (f *file) errorAt(p position, format string, args ...any) {
	f.errs = append(f.errs, &FileError{f.name, p.line, p.column, fmt.Sprintf(format, args...)})
}

// fail reports an error at the path, which the message begins with.
func (f *file) fail(path, format string, args ...any) {
	f.errorAt(f.at(path), "%s: %s", path, fmt.Sprintf(format, args...))
}

func (f *file) warn(path, format string, args ...any) {
	p := f.at(path)
	f.warnings = append(f.warnings, Warning{f.name, p.line, p.column, path + ": " + fmt.Sprintf(format, args...)})
}

func (f *file) failed() bool { return len(f.errs) > 0 }

// maxErrors is how many errors are shown: one mistake can make many.
const maxErrors = 20

func (f *file) result(services []cluster.Service) ([]cluster.Service, []Warning, error) {
	slices.SortStableFunc(f.warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Text, b.Text))
	})
	if !f.failed() {
		return services, f.warnings, nil
	}
	slices.SortStableFunc(f.errs, func(a, b *FileError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Text, b.Text))
	})
	var errs []error
	for _, e := range f.errs[:min(len(f.errs), maxErrors)] {
		errs = append(errs, e)
	}
	if more := len(f.errs) - maxErrors; more > 0 {
		errs = append(errs, fmt.Errorf("%s: and %d more errors", f.name, more))
	}
	return nil, f.warnings, errors.Join(errs...)
}

// plainer says what compose-go says so that it tells what to do.
var plainer = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`^failed to cast to expected type: strconv\.\w+: parsing (".*"): .*$`), `$1 is not a number`},
	{regexp.MustCompile(`^failed to cast to expected type: invalid boolean: (.*)$`), `"$1" is neither true nor false`},
	{regexp.MustCompile(`must be a mapping( or null)?$`), `must be a mapping; write key: value lines, indented below it`},
	{regexp.MustCompile(`must be a (array|list)( or null)?$`), `must be a list; write one item a line, each after a dash`},
	{regexp.MustCompile(`must be a (array|list), mapping( or null)?$`), `must be a list or a mapping`},
}

// loaderError finds the place that an error of compose-go speaks of: its messages begin with a path of
// keys, or name a service.
func (f *file) loaderError(err error) {
	msg := strings.TrimPrefix(err.Error(), "validating "+f.name+": ")
	msg = strings.TrimPrefix(msg, "error while interpolating ")
	path, rest := "", msg
	for i, c := range msg + " " {
		if c == ' ' || c == ':' {
			if _, ok := f.pos[msg[:i]]; ok {
				path, rest = msg[:i], strings.TrimLeft(msg[i:], ": ")
			}
		}
		if c == '\n' {
			break
		}
	}
	if path == "" {
		for p := range f.pos {
			name, ok := strings.CutPrefix(p, "services.")
			if ok && !strings.Contains(name, ".") && (strings.Contains(msg, `"`+name+`"`) || strings.HasPrefix(msg, "services."+name)) && len(p) > len(path) {
				path = p
			}
		}
	}
	for _, r := range plainer {
		if r.from.MatchString(rest) {
			rest = r.from.ReplaceAllString(rest, r.to)
			break
		}
	}
	if path == "" {
		f.errorAt(position{1, 1}, "%s", rest)
		return
	}
	f.fail(path, "%s", rest)
}
