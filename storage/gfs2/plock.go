package gfs2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// A request for a lock of a range of bytes, as /dev/dlm_plock has it (include/uapi/linux/dlm_plock.h, struct
// dlm_plock_info).
const (
	plockLen   = 64
	plockMajor = 1 // version

	plockOp    = 12 // byte: what is asked
	plockFlags = 15 // byte
	plockPID   = 16
	plockRV    = 24 // int32: the answer, 0 or -errno

	plockUnlock = 2
	plockClose  = 1 // flag: of a file that was closed; no answer is wanted
)

// refusal is the answer to a request: there are no locks. Nil if none is wanted.
func refusal(request []byte) ([]byte, error) {
	if len(request) != plockLen {
		return nil, fmt.Errorf("lock request of %d bytes, want %d", len(request), plockLen)
	}
	if v := binary.NativeEndian.Uint32(request); v != plockMajor {
		return nil, fmt.Errorf("lock request of version %d, want %d", v, plockMajor)
	}
	if request[plockFlags]&plockClose != 0 {
		return nil, nil
	}
	answer := append([]byte(nil), request...)
	rv := -int32(unix.ENOLCK)
	if request[plockOp] == plockUnlock {
		rv = 0 // what was never given can always be given back
	}
	binary.NativeEndian.PutUint32(answer[plockRV:], uint32(rv))
	return answer, nil
}

// refuse answers requests for fcntl locks until ctx ends: without an answer the program that asks would hang, and
// could not be killed.
func refuse(ctx context.Context, log *slog.Logger) error {
	f, err := os.OpenFile("/dev/dlm_plock", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	fd := int(f.Fd()) // and blocking from here on: the device has its own poll
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		f.Close()
		return err
	}
	go func() {
		<-ctx.Done()
		unix.Close(wake[1])
	}()
	go func() {
		defer f.Close()
		defer unix.Close(wake[0])
		told := false
		buf := make([]byte, plockLen)
		for {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
				log.Error("answer requests for fcntl locks", "err", err)
				return
			}
			if ctx.Err() != nil {
				return
			}
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue
			}
			var answer []byte
			if err == nil {
				answer, err = refusal(buf[:n])
			}
			if err == nil && answer != nil {
				if !told {
					told = true
					log.Warn("a program asked for an fcntl lock in a shared file system and was told that there are none: it has to use flock",
						"pid", binary.NativeEndian.Uint32(buf[plockPID:]))
				}
				_, err = unix.Write(fd, answer)
			}
			if err != nil {
				log.Error("answer a request for an fcntl lock", "err", err)
				return
			}
		}
	}()
	return nil
}
