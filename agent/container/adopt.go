package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Adopt takes over the containers that an earlier agent left: it reads their records, and waits for the
// end of those that run. What cannot be taken over, because its start was cut short, is removed. Pass
// PID 1's repeated exit messages to Exited before or after, within ExitWait.
func (r *Runtime) Adopt(ctx context.Context) ([]Running, error) {
	entries, err := os.ReadDir(r.cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("adopt containers: %w", err)
	}
	var out []Running
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		run, ok, err := r.adopt(e.Name())
		if ok {
			out = append(out, run)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("adopt container %s: %w", e.Name(), err))
		}
	}
	slices.SortFunc(out, func(a, b Running) int { return strings.Compare(a.Instance.ID, b.Instance.ID) })
	return out, errors.Join(errs...)
}

func (r *Runtime) adopt(name string) (Running, bool, error) {
	b := &box{}
	if r.holds(name) {
		return Running{}, false, nil // begun by this agent
	}
	data, err := os.ReadFile(r.dir(name, "state.json"))
	if err == nil {
		err = json.Unmarshal(data, &b.record)
	}
	if err == nil && b.Name != name {
		err = fmt.Errorf("state.json is of %q", b.Name)
	}
	// A record without PID and without end: it was made ahead of its instance, or the agent died while it
	// started the container.
	if err != nil || b.PID == 0 && b.Exit == nil {
		if id := b.Instance.ID; id != "" || err != nil {
			r.cfg.Log.Warn("container's start was cut short; it is removed", "id", id, "container", name, "err", err)
		}
		return Running{}, false, errors.Join(r.clearProcess(name), disconnect(name, r.dir(name, "netns")), os.RemoveAll(r.dir(name)))
	}
	id := b.Instance.ID
	proc := openProcess(b.PID)
	if proc.ticks != b.StartTicks || b.StartTicks == 0 {
		proc.close() // another process has the PID now
		proc = &process{pid: b.PID}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, here := r.boxes[id]; here {
		proc.close()
		return Running{}, false, nil
	}
	r.boxes[id] = b
	r.alloc.claim(name, b.Address)
	if b.Exit == nil {
		r.watch(b, proc)
	} else {
		proc.close()
	}
	return b.view(), true, nil
}
