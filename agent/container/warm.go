package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// warmKey tells which instances a container that was made ahead can be used for: of the same slot, by the
// same specification.
type warmKey struct {
	stack, service string
	slot           int
	hash, digest   string
}

func keyOf(in *cluster.Instance) warmKey {
	return warmKey{in.Stack, in.Service, in.Slot, in.Spec.Hash, in.Spec.ImageDigest}
}

// mostWarm bounds how many containers are made ahead: each costs a process and a network namespace, some
// 0.5 MB.
const mostWarm = 64

// Warm makes containers ahead for instances that may have to be started here at once, and removes those
// made ahead for others. They are complete, with root, network, cgroup and limits, and stand before the first
// instruction of their program: nothing of the service runs. The instances need no ID; those over 64 are
// left out, and so are those with volumes, whose disk is not this node's yet: a container has its mounts from
// when it is made. A container that cannot be made is an error, and the others are made nevertheless.
//
// Only one Warm may be under way at a time; Start may be called meanwhile.
func (r *Runtime) Warm(ctx context.Context, list []cluster.Instance) error {
	list = slices.DeleteFunc(slices.Clone(list), func(in cluster.Instance) bool { return len(in.Spec.Volumes)+len(in.Spec.Shares) > 0 })
	if len(list) > mostWarm {
		list = list[:mostWarm]
	}
	want := map[warmKey]bool{}
	for i := range list {
		want[keyOf(&list[i])] = true
	}
	var errs []error
	for _, b := range r.cold(want) {
		errs = append(errs, r.discard(b))
	}
	for i := range list {
		if ctx.Err() != nil {
			break
		}
		if err := r.warmOne(ctx, &list[i]); err != nil {
			errs = append(errs, fmt.Errorf("make a container ahead for %s/%s: %w", list[i].Stack, list[i].Service, full(r.cfg.Root, err)))
		}
	}
	return errors.Join(errs...)
}

// cold takes out what was made ahead and is not wanted any more, or has died.
func (r *Runtime) cold(want map[warmKey]bool) []*box {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*box
	for key, b := range r.warm {
		spent := !b.kindled.IsZero() && time.Since(b.kindled) >= KindleKeep
		if !want[key] || spent || !b.proc.alive() {
			delete(r.warm, key)
			out = append(out, b)
		}
	}
	return out
}

func (r *Runtime) warmOne(ctx context.Context, in *cluster.Instance) error {
	key := keyOf(in)
	r.mu.Lock()
	b, err := r.warm[key], error(nil)
	if b != nil {
		r.mu.Unlock()
		return nil
	}
	r.warmed++
	b, err = r.reserve(fmt.Sprintf("warm.%d.%s.%s.%d", r.warmed, in.Stack, in.Service, in.Slot))
	r.mu.Unlock()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := r.create(ctx, b, *in); err != nil {
		return errors.Join(err, r.discard(b))
	}
	r.cfg.Log.Debug("container made ahead", "container", b.Name, "took", time.Since(begin).Round(time.Millisecond))
	r.mu.Lock()
	defer r.mu.Unlock()
	b.busy = false
	r.warm[key] = b
	return nil
}

func (r *Runtime) create(ctx context.Context, b *box, in cluster.Instance) error {
	// An ID would make a later agent take the record for that of an instance.
	in.ID = ""
	root, err := r.prepare(ctx, &b.record, in, true)
	if err != nil {
		return err
	}
	if err := r.bundle(b.Name, in, root, b.Address); err != nil {
		return err
	}
	pid, err := r.crun.create(ctx, b.Name, r.dir(b.Name), r.dir(b.Name, "log"))
	if err != nil {
		return err
	}
	b.madeAhead, b.proc = pid, openProcess(pid)
	return nil
}

// KindleKeep is for how long a program that Kindle let go is kept without an instance. The next Warm after
// that puts a container in its place that has run nothing.
const KindleKeep = 12 * time.Second

// Kindle lets the programs of containers that were made ahead begin, before it is certain that there will be
// instances for them: a Start within KindleKeep then finds a program that has started. Only for those that
// have no effects before they are in use. Those without a container made ahead are left out.
func (r *Runtime) Kindle(list []cluster.Instance) error {
	var errs []error
	for i := range list {
		r.mu.Lock()
		b := r.warm[keyOf(&list[i])]
		if b == nil || b.busy || !b.kindled.IsZero() || !b.proc.alive() {
			r.mu.Unlock()
			continue
		}
		b.kindled, b.StartedBoot = time.Now(), boottime()
		// Under the lock, because Start must not find it half let go. It is one byte into a pipe.
		err := r.crun.start(b.Name)
		r.mu.Unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("start %s/%s early: %w", list[i].Stack, list[i].Service, err))
			continue
		}
		r.cfg.Log.Info("container started early", "container", b.Name, "pid", b.madeAhead)
	}
	return errors.Join(errs...)
}

// Warmed are the slots that a container was made ahead for, as STACK/SERVICE.SLOT, sorted.
func (r *Runtime) Warmed() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []string{}
	for k := range r.warm {
		out = append(out, fmt.Sprintf("%s/%s.%d", k.stack, k.service, k.slot))
	}
	slices.Sort(out)
	return out
}
