package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/qemu/san"
)

// SAN is a storage array for a lab: one more machine, on both networks, that is no node (package san). Its disks are
// files in the folder "san" of the lab's folder, with holes where nothing was written, and they stay when the lab
// ends.
type SAN struct {
	Initrd string  `json:"initrd"` // initramfs.SANName of the image
	LUNs   []int64 `json:"luns"`   // sizes, bytes; multiples of sanSector
	// Wipe begins with empty disks. Else those of the last lab in this folder are used, which must fit.
	Wipe bool `json:"wipe,omitempty"`
}

// sanPort is the way of orders to the array.
type sanPort struct {
	mu      sync.Mutex   // one order at a time
	process *process     // whose port control speaks over
	control *san.Control // nil: none yet
}

const (
	// SANMemoryMB is the memory of the array.
	SANMemoryMB = 192
	// sanSector is what sizes of LUNs are multiples of, bytes: a page, so that initiators get all of it.
	sanSector = 4096
	// sanStateSize is the size of the disk with the array's own state, bytes: ext4 with a journal.
	sanStateSize = 16 << 20
	// sanPatience is how long the array may take to answer. It starts in some seconds, in more where it is emulated on
	// a busy host; ending the target waits for I/O that is under way, which may be slow by order.
	sanPatience = 3 * time.Minute
)

// sanParameter tells nodes of the array (package storage/iscsi).
func sanParameter() string {
	var addrs []string
	for lan := range LANs {
		addrs = append(addrs, Addr(lan, san.Number).String())
	}
	return "skein.san=" + san.Target + "@" + strings.Join(addrs, ",")
}

// sanCmdline is what the array's kernel is told.
func sanCmdline() string {
	var addrs []string
	for lan := range LANs {
		addrs = append(addrs, fmt.Sprintf("%s/%d", Addr(lan, san.Number), LANPrefix(lan).Bits()))
	}
	return kernelArgs + " " + san.AddressParameter + "=" + strings.Join(addrs, ",")
}

func (m *Machine) memoryMB() int {
	if m.san != nil {
		return SANMemoryMB
	}
	return m.lab.cfg.MemoryMB
}

// files are the array's disks by serial number, with their sizes, in the order of their slots.
func (s *SAN) files(dir string) (serials []string, paths []string, sizes []int64) {
	add := func(serial string, size int64) {
		serials = append(serials, serial)
		paths = append(paths, filepath.Join(dir, "san", serial+".img"))
		sizes = append(sizes, size)
	}
	add(san.StateDisk, sanStateSize)
	for n, size := range s.LUNs {
		add(san.DiskSerial(n), size)
	}
	return
}

// disks are QEMU's arguments for the array's disks. What the guest flushes is not flushed to the host's disk: it
// survives the machine and the lab, and is as safe as the host.
func (s *SAN) disks(dir string) []string {
	var args []string
	serials, paths, _ := s.files(dir)
	for i, serial := range serials {
		node, err := json.Marshal(map[string]any{"driver": "raw", "node-name": serial, "cache": map[string]any{"no-flush": true},
			"file": map[string]any{"driver": "file", "filename": paths[i]}})
		if err != nil {
			panic(err) // strings and booleans
		}
		args = append(args, "-blockdev", string(node), "-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", serial, serial))
	}
	return args
}

// prepare makes the files that are missing.
func (s *SAN) prepare(dir string) error {
	if len(s.LUNs) == 0 || len(s.LUNs) > san.MaxLUNs {
		return fmt.Errorf("storage array with %d LUNs: must be 1 to %d", len(s.LUNs), san.MaxLUNs)
	}
	if _, err := os.Stat(s.Initrd); err != nil {
		return fmt.Errorf("image of the storage array: %w; 'make image' builds it", err)
	}
	folder := filepath.Join(dir, "san")
	if s.Wipe {
		if err := os.RemoveAll(folder); err != nil {
			return fmt.Errorf("remove the storage array's old disks: %w", err)
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make the folder of the storage array: %w", err)
	}
	serials, paths, sizes := s.files(dir)
	for i, path := range paths {
		if sizes[i] <= 0 || sizes[i]%sanSector != 0 {
			return fmt.Errorf("disk %s of the storage array: size %d must be a multiple of %d bytes", serials[i], sizes[i], sanSector)
		}
		info, err := os.Stat(path)
		if err == nil && info.Size() != sizes[i] {
			return fmt.Errorf("%s is there with %d bytes, want %d: choose the LUNs as before, or begin with empty disks", path, info.Size(), sizes[i])
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(sizes[i]), f.Close()); err != nil {
			return fmt.Errorf("make a disk of the storage array: %w", err)
		}
	}
	return nil
}

// startSAN powers the array on, if there is one, and waits until its portals are open.
func (l *Lab) startSAN(ctx context.Context) error {
	s := l.cfg.SAN
	if s == nil {
		return nil
	}
	if err := s.prepare(l.cfg.Dir); err != nil {
		return err
	}
	m, err := l.add(Node{Name: san.Machine, Number: san.Number}, s)
	if err != nil {
		return err
	}
	m.op.Lock()
	err = m.powerOn(ctx)
	m.op.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sanPatience, fmt.Errorf("not ready after %s", sanPatience))
	defer cancel()
	waiting, failed := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		if line, err := m.console.wait(waiting, sanFailed); err == nil {
			failed(errors.New(line.Text))
		}
	})
	_, err = l.OrderSAN(waiting, san.Order{Op: san.OpShow})
	if cause := context.Cause(waiting); err != nil && cause != nil {
		err = cause
	}
	failed(nil)
	watch.Wait()
	if err != nil {
		return fmt.Errorf("start the storage array: %w; %s has all that it said", err, l.consolePath(san.Machine))
	}
	return nil
}

// sanFailed is what the array says when it cannot start.
var sanFailed = regexp.MustCompile("^san: cannot start: ")

// SAN is the state of the storage array's machine, nil if there is none.
func (l *Lab) SAN() *Status {
	m, err := l.machine(san.Machine)
	if err != nil {
		return nil
	}
	s := m.status()
	return &s
}

// OrderSAN gives the storage array an order and returns how it is afterwards. If it is still starting, the order
// waits for that. Without a deadline in ctx it is given up after sanPatience.
func (l *Lab) OrderSAN(ctx context.Context, o san.Order) (*san.Status, error) {
	m, err := l.machine(san.Machine)
	if err != nil {
		return nil, errors.New("the lab has no storage array: 'skein lab up --san' starts one with it")
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sanPatience)
		defer cancel()
	}
	p, err := m.running()
	if err != nil {
		return nil, err
	}
	port := &m.sanPort
	port.mu.Lock()
	defer port.mu.Unlock()
	if port.process != p {
		port.process, port.control = p, san.NewControl(p.oob)
	}
	if err := p.oob.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("the storage array has gone off: %w", err)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(ended); _ = p.oob.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			<-ended // or it would end the next order
		}
	}()
	status, err := port.control.Do(o)
	if err != nil {
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			err = fmt.Errorf("the storage array did not answer to %s: 'skein lab console %s' shows what it says", o.Op, san.Machine)
		}
		return nil, err
	}
	if o.Op != san.OpShow {
		l.events.add(san.Machine, EventSAN, describeOrder(o))
	}
	return status, nil
}

// describeOrder is an order in the timeline.
func describeOrder(o san.Order) string {
	which := "all LUNs"
	if o.LUN >= 0 {
		which = fmt.Sprintf("LUN %d", o.LUN)
	}
	switch o.Op {
	case san.OpRestart:
		return "target restarted"
	case san.OpLose:
		return "target restarted without the reservations of " + which
	case san.OpSlow:
		if o.Delay == 0 {
			return which + " as fast as they are"
		}
		return fmt.Sprintf("%s slower by %s", which, o.Delay)
	case san.OpRefuse:
		return fmt.Sprintf("portal on lan%d refuses", o.Portal)
	case san.OpAccept:
		return fmt.Sprintf("portal on lan%d accepts", o.Portal)
	case san.OpResize:
		return fmt.Sprintf("%s has %d bytes", which, o.Size)
	case san.OpWithdraw:
		return which + " withdrawn"
	case san.OpPresent:
		return which + " presented"
	case san.OpDeny:
		return "target restarted, no reservations on " + which
	case san.OpAllow:
		return "target restarted, reservations on " + which
	case san.OpCHAP:
		if o.User == "" {
			return "anybody may log in"
		}
		return "CHAP demanded of user " + o.User
	}
	return string(o.Op)
}
