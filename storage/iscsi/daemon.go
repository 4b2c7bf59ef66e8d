package iscsi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A start of iscsid that did not last is tried again after these, doubled each time.
const (
	firstRestart = 200 * time.Millisecond
	maxRestart   = 10 * time.Second
	lasted       = 30 * time.Second // a run as long as this was none that fails
)

// daemon is iscsid as a child. The kernel's sessions live without it; it is needed to log in and out, and to connect a
// session again that lost its connection. One that is started anew finds the sessions that there are.
type daemon struct {
	path string
	args []string
	log  *slog.Logger
	// starting is called before each start.
	starting func()
}

// run keeps iscsid running until ctx ends, and waits for its end.
func (d *daemon) run(ctx context.Context) {
	wait := firstRestart
	for ctx.Err() == nil {
		begin := time.Now()
		err := d.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > lasted {
			wait = firstRestart
		}
		d.log.Error("iscsid ended; sessions go on, but none is connected again until it is back", "err", err, "again", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRestart)
	}
}

func (d *daemon) once(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	d.starting()
	cmd := exec.CommandContext(ctx, d.path, d.args...)
	cmd.Stdout, cmd.Stderr = w, w // files, so that Wait does not wait for iscsid's own children
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", d.path, err)
	}
	d.log.Info("iscsid runs", "pid", cmd.Process.Pid)
	read := make(chan struct{})
	go func() {
		defer close(read)
		logLines(r, d.log)
	}()
	err = cmd.Wait()
	// A child of iscsid's may hold the pipe for a moment.
	_ = r.SetReadDeadline(time.Now().Add(time.Second))
	<-read
	if err == nil {
		err = errors.New("exit status 0")
	}
	return err
}

// maxLine bounds what is kept of a line that iscsid prints, bytes.
const maxLine = 400

// logLines has iscsid's lines in the node's log. It prints no secrets as long as it is not told to debug.
func logLines(r io.Reader, log *slog.Logger) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if text := strings.TrimSpace(string(line)); text != "" {
			log.Info("iscsid: " + text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// socketName begins the name of iscsid's socket, which is in no folder (unix(7), abstract).
const socketName = "@ISCSIADM_ABSTRACT_NAMESPACE"

// listening tells by the kernel's list of sockets whether iscsid takes commands. It does not connect: iscsid would
// complain of a caller who says nothing.
func listening() (bool, error) {
	data, err := os.ReadFile("/proc/net/unix")
	return strings.Contains(string(data), socketName), err
}

// awaitDaemon waits for iscsid to take commands.
func awaitDaemon(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("iscsid does not run: it takes no commands"))
	defer cancel()
	for {
		if ok, err := listening(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
