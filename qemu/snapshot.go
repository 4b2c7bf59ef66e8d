package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// manifest describes a saved lab. A machine can only be loaded into a QEMU of the same build with the
// same arguments, so it holds what those are made of.
type manifest struct {
	Format   int         `json:"format"`
	QEMU     string      `json:"qemu"` // its version
	Accel    string      `json:"accel"`
	Kernel   fileID      `json:"kernel"`
	Initrd   fileID      `json:"initrd"`
	Append   string      `json:"append"`
	MemoryMB int         `json:"memory_mb"`
	Nodes    []savedNode `json:"nodes"`
	At       time.Time   `json:"at"`
}

type savedNode struct {
	Name   string `json:"name"`
	Number int    `json:"number"`
	Seed   []byte `json:"seed"`
	Append string `json:"append,omitempty"`
	On     bool   `json:"on"`
	// RAMFile: memory is in a file of its own and is loaded page by page when it is touched; else it is
	// in the state.
	RAMFile bool `json:"ram_file"`
}

// fileID tells whether a file is the one that was used.
type fileID struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

const manifestFormat = 1

func identify(path string) (fileID, error) {
	st, err := os.Stat(path)
	if err != nil {
		return fileID{}, err
	}
	path, err = filepath.Abs(path)
	return fileID{path, st.Size()}, err
}

func qemuVersion(ctx context.Context, qemu string) (string, error) {
	out, err := exec.CommandContext(ctx, qemu, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", qemu, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

// Save writes the whole lab as it runs into a new folder: all machines are stopped at once, written,
// and go on. Connections between machines survive a restore, those with the host do not. Faults of the
// network are not saved. The folder holds the machines' seeds: it is readable by its owner only.
func (l *Lab) Save(ctx context.Context, dir string) (err error) {
	begin := time.Now()
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("save: %s exists already", dir)
	}
	if l.cfg.SAN != nil {
		return errors.New("save: a lab with a storage array cannot be saved: its disks would go on without the machines")
	}
	man := manifest{Format: manifestFormat, Accel: string(l.accel.Kind), Append: l.cfg.Append, MemoryMB: l.cfg.MemoryMB, At: begin}
	if man.QEMU, err = qemuVersion(ctx, l.cfg.QEMU); err != nil {
		return err
	}
	if man.Kernel, err = identify(l.cfg.Kernel); err != nil {
		return err
	}
	if man.Initrd, err = identify(l.cfg.Initrd); err != nil {
		return err
	}
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // gone after the rename

	all := l.list()
	for _, m := range all {
		m.op.Lock()
		defer m.op.Unlock()
	}
	type running struct {
		m *Machine
		p *process
		n *savedNode
	}
	var on []running
	man.Nodes = make([]savedNode, len(all))
	for i, m := range all {
		n := &man.Nodes[i]
		*n = savedNode{Name: m.node.Name, Number: m.node.Number, Seed: m.node.Seed, Append: m.node.Append}
		m.mu.Lock()
		p, frozen := m.proc, m.frozen
		m.mu.Unlock()
		if p == nil {
			continue
		}
		if frozen != "" {
			return fmt.Errorf("save: %s is frozen: thaw it first", m.node.Name)
		}
		n.On, n.RAMFile = true, p.shared
		on = append(on, running{m, p, n})
	}
	parallel := func(f func(r running) error) error {
		errs := make(chan error, len(on))
		for _, r := range on {
			go func() { errs <- f(r) }()
		}
		var all []error
		for range on {
			all = append(all, <-errs)
		}
		return errors.Join(all...)
	}
	defer func() {
		// Whatever happened, the machines go on, even when the caller has given up.
		err = errors.Join(err, parallel(func(r running) error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return r.p.qmp.Execute(ctx, "cont", nil, nil)
		}))
	}()
	if err := parallel(func(r running) error { return r.p.qmp.Execute(ctx, "stop", nil, nil) }); err != nil {
		return fmt.Errorf("save: stop the machines: %w", err)
	}
	err = parallel(func(r running) error {
		if err := r.p.store(ctx, filepath.Join(tmp, r.n.Name)); err != nil {
			return fmt.Errorf("save machine %s: %w", r.n.Name, r.p.explain(err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(man, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "lab.json"), data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	l.events.add("", EventSave, fmt.Sprintf("%d machines to %s in %s", len(on), dir, time.Since(begin).Round(time.Millisecond)))
	return nil
}

// setMigration says how state is to be written and read: memory in a file stays there.
func (p *process) setMigration(ctx context.Context) error {
	return p.qmp.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []map[string]any{
		{"capability": "x-ignore-shared", "state": true},
		{"capability": "events", "state": true},
	}}, nil)
}

// settled waits for a migration to end.
func (p *process) settled(ctx context.Context) error {
	for {
		select {
		case s := <-p.migration:
			switch s {
			case "completed":
				return nil
			case "failed", "cancelled":
				var info struct {
					Desc string `json:"error-desc"`
				}
				_ = p.qmp.Execute(ctx, "query-migrate", nil, &info)
				return fmt.Errorf("QEMU's migration %s: %s", s, info.Desc)
			}
		case <-p.exited:
			return fmt.Errorf("QEMU ended: %w", p.status)
		case <-p.qmp.Done():
			return errors.New("QEMU ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finished waits until a machine whose state was written may go on. QEMU reports "completed" a moment
// before that, and no event tells the rest.
func (p *process) finished(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var st struct {
			Status string `json:"status"`
		}
		if err := p.qmp.Execute(ctx, "query-status", nil, &st); err != nil {
			return err
		}
		if st.Status != "finish-migrate" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// store writes a stopped machine to base.state and, if its memory is a file, base.ram.
func (p *process) store(ctx context.Context, base string) error {
	state, err := os.OpenFile(base+".state", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := p.setMigration(ctx); err != nil {
		return err
	}
	if err := p.qmp.SendFile(ctx, "state", state); err != nil {
		return err
	}
	if err := p.qmp.Execute(ctx, "migrate", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	if err := p.settled(ctx); err != nil {
		return err
	}
	if err := p.finished(ctx); err != nil {
		return err
	}
	if !p.shared {
		return nil
	}
	ram, err := os.OpenFile(base+".ram", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer ram.Close()
	return copySparse(ctx, ram, p.ram)
}

// copySparse copies the parts of a file that are not holes.
func copySparse(ctx context.Context, to, from *os.File) error {
	st, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(st.Size()); err != nil {
		return err
	}
	// A description of its own: QEMU's and ours share one offset otherwise.
	src, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", from.Fd()))
	if err != nil {
		return err
	}
	defer src.Close()
	for off := int64(0); off < st.Size(); {
		data, err := src.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := src.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := src.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := to.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(to, src, hole-data); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

// load loads a saved machine into a QEMU that waits for it.
func (p *process) load(ctx context.Context, from *image) error {
	if err := p.setMigration(ctx); err != nil {
		return err
	}
	if err := p.qmp.SendFile(ctx, "state", from.state); err != nil {
		return err
	}
	if err := p.qmp.Execute(ctx, "migrate-incoming", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	return p.settled(ctx)
}

// Restore makes a lab of a saved one. Its machines are loaded, then go on at the same moment. cfg says
// what a save does not hold (folder, QEMU, log); its kernel, memory and nodes come from the save.
// The guests' wall clocks are as late as the save is old.
func Restore(ctx context.Context, cfg Config, dir string) (*Lab, error) {
	begin := time.Now()
	man, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	if cfg.QEMU == "" {
		cfg.QEMU = DefaultQEMU
	}
	if v, err := qemuVersion(ctx, cfg.QEMU); err != nil {
		return nil, err
	} else if v != man.QEMU {
		return nil, fmt.Errorf("restore %s: it was saved by %q, this is %q: save anew", dir, man.QEMU, v)
	}
	for _, want := range []fileID{man.Kernel, man.Initrd} {
		if got, err := identify(want.Path); err != nil {
			return nil, fmt.Errorf("restore %s: its image is gone: %w", dir, err)
		} else if got != want {
			return nil, fmt.Errorf("restore %s: %s has changed since: save anew", dir, want.Path)
		}
	}
	cfg.Kernel, cfg.Initrd, cfg.Append, cfg.MemoryMB = man.Kernel.Path, man.Initrd.Path, man.Append, man.MemoryMB
	cfg.Nodes = nil
	l, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := l.restore(ctx, man, dir); err != nil {
		l.Close()
		return nil, err
	}
	l.events.add("", EventRestore, fmt.Sprintf("%d machines from %s in %s", len(man.Nodes), dir, time.Since(begin).Round(time.Millisecond)))
	return l, nil
}

func (l *Lab) restore(ctx context.Context, man *manifest, dir string) error {
	if string(l.accel.Kind) != man.Accel {
		return fmt.Errorf("restore %s: it was saved under %s, machines run under %s here", dir, man.Accel, l.accel.Kind)
	}
	saved := map[string]savedNode{}
	for _, n := range man.Nodes {
		if _, err := l.define(Node{Name: n.Name, Number: n.Number, Seed: n.Seed, Append: n.Append}); err != nil {
			return err
		}
		saved[n.Name] = n
	}
	err := l.each(func(m *Machine) error {
		n := saved[m.node.Name]
		if !n.On {
			return nil
		}
		from, err := openImage(filepath.Join(dir, n.Name), n.RAMFile)
		if err != nil {
			return err
		}
		defer from.state.Close()
		p, err := l.launch(ctx, m, from) // closes from.ram
		if err != nil {
			return err
		}
		m.adopt(p)
		// Its addresses are from before.
		m.mu.Lock()
		m.leased = [LANs]time.Time{man.At, man.At}
		m.mu.Unlock()
		return nil
	})
	if err != nil {
		return err
	}
	return l.each(func(m *Machine) error {
		p, err := m.running()
		if err != nil {
			return nil // was saved as off
		}
		for lan := range LANs {
			if err := p.setLink(ctx, lan, true); err != nil {
				return err
			}
		}
		return p.qmp.Execute(ctx, "cont", nil, nil)
	})
}

func openImage(base string, ramFile bool) (*image, error) {
	state, err := os.Open(base + ".state")
	if err != nil {
		return nil, err
	}
	if !ramFile {
		return &image{state: state}, nil
	}
	// For writing only because QEMU asks for that: it gets a private copy (share=off).
	ram, err := os.OpenFile(base+".ram", os.O_RDWR, 0)
	if err != nil {
		state.Close()
		return nil, err
	}
	return &image{state: state, ram: ram}, nil
}

func readManifest(dir string) (*manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		return nil, fmt.Errorf("read the saved lab: %w", err)
	}
	var man manifest
	if err := json.Unmarshal(data, &man); err != nil {
		return nil, fmt.Errorf("read the saved lab %s: %w", dir, err)
	}
	if man.Format != manifestFormat {
		return nil, fmt.Errorf("%s was saved in format %d, this program reads %d: save anew", dir, man.Format, manifestFormat)
	}
	return &man, nil
}
