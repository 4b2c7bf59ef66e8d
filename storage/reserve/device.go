package reserve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// commandTimeout is how long the kernel waits for the target's answer before it aborts the command and perhaps
// resets the path. It must be longer than a target needs to end what a victim has under way (PREEMPT AND ABORT).
// The context of Exec is usually shorter: then the caller knows earlier that it does not know.
const commandTimeout = 10 * time.Second

// maxAttentions is how many unit attentions of one command are swallowed. Each condition is told once, so a
// longer row is a target that does nothing else.
const maxAttentions = 8

// Device is one path to a disk: a block device of the kernel (/dev/sdX), which is one I_T nexus. It is safe
// for concurrent use; its commands go one after the other.
type Device struct {
	path   string
	kernel bool          // PERSISTENT RESERVE OUT by the kernel's ioctls
	slot   chan struct{} // full while the kernel has a command
	fd     int
}

// Open opens the block device for commands by SG_IO.
func Open(path string) (*Device, error) { return open(path, false, 0) }

// OpenUnused opens the block device such that nobody on this machine can mount it or make it part of a map
// meanwhile. It fails if somebody has.
func OpenUnused(path string) (*Device, error) { return open(path, false, unix.O_EXCL) }

// OpenKernel opens the block device such that reservations are changed by the kernel's ioctls (linux/pr.h), which
// device-mapper sends down every path. They do not tell a unit attention from a failure, so both are ErrAttention;
// and what the kernel has no ioctl for still goes by SG_IO. SCSI disks and maps of them only.
func OpenKernel(path string) (*Device, error) { return open(path, true, 0) }

func open(path string, kernel bool, flags int) (*Device, error) {
	// Non-blocking: opening must not wait for a medium, nor for a target that does not answer.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open %s for reservations: it is mounted or part of another device here: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s for reservations: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFBLK {
		err = errors.New("it is no block device")
		unix.Close(fd)
		return nil, fmt.Errorf("open %s for reservations: %w", path, err)
	}
	return &Device{path: path, kernel: kernel, slot: make(chan struct{}, 1), fd: fd}, nil
}

// Name is the device's path.
func (d *Device) Name() string { return d.path }

// Close waits for a command that the kernel still has and closes the device.
func (d *Device) Close() error {
	d.slot <- struct{}{}
	defer func() { <-d.slot }()
	if d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}

// WWID is the disk's worldwide name as the kernel read it, "" if it has none. Two devices are paths of one
// disk only if theirs are the same and not empty.
func (d *Device) WWID() (string, error) {
	real, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(real), "device/wwid"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// Exec sends one command and waits for its answer or the context's end. In the latter case the outcome is
// unknown (ErrNoAnswer), and the device is busy until the kernel has given the command up.
func (d *Device) Exec(ctx context.Context, c Command) (Answer, error) {
	if err := ctx.Err(); err != nil {
		return Answer{}, &Error{d.path, c.Op, ErrNoAnswer, "not sent: " + err.Error()}
	}
	select {
	case d.slot <- struct{}{}:
	case <-ctx.Done():
		return Answer{}, &Error{d.path, c.Op, ErrNoAnswer, "not sent: an earlier command is still under way"}
	}
	type outcome struct {
		a   Answer
		err error
	}
	done := make(chan outcome, 1)
	go func() { // its owner is the slot: Close and the next command wait for it
		a, err := d.run(c)
		<-d.slot
		done <- outcome{a, err}
	}()
	select {
	case o := <-done:
		return o.a, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done: // both: an answer is better than none
		return o.a, o.err
	default:
		return Answer{}, &Error{d.path, c.Op, ErrNoAnswer, ctx.Err().Error()}
	}
}

// run sends the command until it has something else to say than that some unit attention was pending, and
// with more room if the answer did not fit.
func (d *Device) run(c Command) (Answer, error) {
	var swallowed []Sense
	alloc := 512
	for {
		a, s, err := d.once(c, alloc)
		a.Attentions = swallowed
		var long truncatedError
		switch {
		case errors.Is(err, ErrAttention) && s.passing() && len(swallowed) < maxAttentions:
			swallowed = append(swallowed, s)
		case errors.As(err, &long) && long.need > alloc && long.need <= maxAnswer:
			alloc = min(long.need+512, maxAnswer) // others may register meanwhile
		case errors.As(err, &long):
			return a, &Error{d.path, c.Op, ErrTarget, long.Error()}
		default:
			return a, err
		}
	}
}

func (d *Device) once(c Command, alloc int) (Answer, Sense, error) {
	if d.fd < 0 {
		return Answer{}, Sense{}, &Error{d.path, c.Op, ErrTransport, "the device is closed here"}
	}
	if _, out := outActions[c.Op]; out && d.kernel {
		return Answer{}, Sense{}, d.reserveByKernel(c)
	}
	w, err := c.encode(alloc)
	if err != nil {
		return Answer{}, Sense{}, fmt.Errorf("%s: %w", d.path, err)
	}
	data, s, detail, kind := d.send(w)
	if kind != nil {
		return Answer{}, s, &Error{d.path, c.Op, kind, detail}
	}
	a, err := c.parse(data)
	var long truncatedError
	if err != nil && !errors.As(err, &long) {
		err = &Error{d.path, c.Op, ErrTarget, err.Error()}
	}
	return a, s, err
}

// parse reads what the disk answered.
func (c Command) parse(data []byte) (a Answer, err error) {
	switch c.Op {
	case ReadKeys:
		a.Keys, err = parseKeys(data)
	case ReadReservation:
		a.Reservation, err = parseReservation(data)
	case ReadCapabilities:
		a.Capabilities, err = parseCapabilities(data)
	case ReadFullStatus:
		a.Registrants, err = parseFullStatus(data)
	case ReadCapacity:
		a.Capacity, err = parseCapacity(data)
	case ReadIdentity, ReadPortGroups:
		a.Data = data
	case ReadBlock:
		if a.Data = data; len(data) != c.Size {
			err = errShort
		}
	}
	return a, err
}

// sgHeader is struct sg_io_hdr (scsi/sg.h).
type sgHeader struct {
	interfaceID  int32
	direction    int32
	cdbLen       uint8
	senseRoom    uint8
	iovecs       uint16
	length       uint32
	data         unsafe.Pointer
	cdb          unsafe.Pointer
	sense        unsafe.Pointer
	timeout      uint32 // milliseconds
	flags        uint32
	packID       int32
	user         uintptr
	status       uint8
	maskedStatus uint8
	msgStatus    uint8
	senseLen     uint8
	hostStatus   uint16
	driverStatus uint16
	resid        int32
	duration     uint32
	info         uint32
}

const (
	sgIO       = 0x2285
	sgNone     = -1
	sgToDisk   = -2
	sgFromDisk = -3
)

// send is one SG_IO. The buffers are pinned: their addresses are in a structure that the kernel reads.
func (d *Device) send(w wire) (data []byte, s Sense, detail string, kind error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	sense := make([]byte, 252)
	h := &sgHeader{interfaceID: 'S', direction: sgNone, cdbLen: uint8(len(w.cdb)), senseRoom: uint8(len(sense)),
		timeout: uint32(commandTimeout.Milliseconds())}
	buf := w.out
	if w.want > 0 {
		buf = make([]byte, w.want)
		h.direction = sgFromDisk
	} else if len(w.out) > 0 {
		h.direction = sgToDisk
	}
	pin.Pin(h)
	pin.Pin(&w.cdb[0])
	pin.Pin(&sense[0])
	h.cdb, h.sense = unsafe.Pointer(&w.cdb[0]), unsafe.Pointer(&sense[0])
	if len(buf) > 0 {
		pin.Pin(&buf[0])
		h.data, h.length = unsafe.Pointer(&buf[0]), uint32(len(buf))
	}
	if _, errno := ioctl(d.fd, sgIO, unsafe.Pointer(h)); errno != 0 {
		return nil, s, "SG_IO: " + errno.Error(), errnoKind(errno)
	}
	s, detail, kind = verdict(h.status, sense[:min(int(h.senseLen), len(sense))], h.hostStatus)
	if kind == nil && w.want > 0 {
		if h.resid < 0 || int(h.resid) > len(buf) {
			return nil, s, fmt.Sprintf("%d of %d bytes are missing", h.resid, len(buf)), ErrTransport
		}
		data = buf[:len(buf)-int(h.resid)]
	}
	return data, s, detail, kind
}

// ioctl returns the call's result too: some of the kernel's return a status of SCSI that is positive.
func ioctl(fd int, request uintptr, arg unsafe.Pointer) (int, unix.Errno) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno != unix.EINTR {
			return int(int32(r)), errno
		}
	}
}

// errnoKind: an error of the call itself says that the command was not sent, or that the path is gone.
func errnoKind(errno unix.Errno) error {
	switch errno {
	case unix.ENOTTY, unix.EOPNOTSUPP, unix.EINVAL, unix.EPERM, unix.EACCES:
		return ErrUnsupported
	default:
		return ErrTransport
	}
}
