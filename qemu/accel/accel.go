package accel

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
)

// Kind is how QEMU runs a machine's instructions.
type Kind string

const (
	KVM Kind = "kvm" // by the processor
	TCG Kind = "tcg" // by translation, some 3 to 50 times slower
)

// Env names the variable that overrides the probe.
const Env = "SKEIN_LAB_ACCEL"

const (
	startDeadline = 3 * time.Second        // for QEMU to start on a busy host and the program's first letter
	finishWithin  = 300 * time.Millisecond // from there to its end; KVM needs under one
	exitStatus    = 33                     // isa-debug-exit: (16 << 1) | 1
)

// Choice is the result and why.
type Choice struct {
	Kind   Kind   `json:"kind"`
	Reason string `json:"reason"`
}

// CPU is the -cpu model that goes with the choice.
func (c Choice) CPU() string {
	if c.Kind == KVM {
		return "host"
	}
	return "max"
}

// Choose tells how to run machines with the given QEMU binary.
func Choose(ctx context.Context, qemu string) (Choice, error) {
	switch v := os.Getenv(Env); Kind(v) {
	case KVM, TCG:
		return Choice{Kind(v), "set by " + Env}, nil
	case "":
	default:
		return Choice{}, fmt.Errorf("%s=%q: must be kvm or tcg", Env, v)
	}
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return Choice{TCG, "no usable /dev/kvm: " + err.Error()}, nil
	}
	dev.Close()
	key, file := cacheKey(qemu), cacheFile()
	if c, ok := readCache(file, key); ok {
		return c, nil
	}
	c := Choice{KVM, "the probe program ran"}
	if err := Probe(ctx, qemu, KVM); err != nil {
		if ctx.Err() != nil {
			return Choice{}, ctx.Err()
		}
		c = Choice{TCG, "KVM is there but does not work: " + err.Error()}
	}
	writeCache(file, key, c)
	return c, nil
}

// Probe runs the probe program and returns nil if it came to its end in time.
func Probe(ctx context.Context, qemu string, kind Kind) error {
	dir, err := os.MkdirTemp("", "skein-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "probe.bin")
	if err := os.WriteFile(rom, firmware(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-accel", string(kind), "-cpu", Choice{Kind: kind}.CPU(), "-M", "pc", "-m", "16",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", rom,
		"-chardev", "stdio,id=d,signal=off", "-device", "isa-debugcon,iobase=0xe9,chardev=d",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", qemu, err)
	}
	deadline := time.AfterFunc(startDeadline, cancel)
	defer deadline.Stop()
	stage := "it did not start in 3 s"
	first := make([]byte, 1)
	if _, err := io.ReadFull(out, first); err == nil && first[0] == 'R' {
		deadline.Reset(finishWithin)
		stage = "it hung when the program changed the processor's mode"
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(out, 1<<16))
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitStatus {
		return nil
	}
	if ctx.Err() != nil {
		return errors.New(stage)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
	return fmt.Errorf("%v: %s", err, line)
}

func cacheFile() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "skein", "accel.json")
}

// cacheKey changes with each boot of the host and each new QEMU.
func cacheKey(qemu string) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	path, err := exec.LookPath(qemu)
	if err != nil {
		return ""
	}
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %s %d %d", strings.TrimSpace(string(boot)), path, st.Size(), st.ModTime().UnixNano())
}

type cached struct {
	Key    string `json:"key"`
	Choice Choice `json:"choice"`
}

func readCache(file, key string) (Choice, bool) {
	data, err := os.ReadFile(file)
	if err != nil || key == "" {
		return Choice{}, false
	}
	var c cached
	if json.Unmarshal(data, &c) != nil || c.Key != key || (c.Choice.Kind != KVM && c.Choice.Kind != TCG) {
		return Choice{}, false
	}
	return c.Choice, true
}

// writeCache is best effort: without a cache the next probe costs a third of a second.
func writeCache(file, key string, c Choice) {
	if file == "" || key == "" {
		return
	}
	data, err := json.Marshal(cached{key, c})
	if err != nil || os.MkdirAll(filepath.Dir(file), 0o700) != nil {
		return
	}
	tmp := fmt.Sprintf("%s.%d", file, os.Getpid())
	if os.WriteFile(tmp, data, 0o600) == nil {
		_ = os.Rename(tmp, file)
	}
}
