package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrClosed: the connection to QEMU has ended.
var ErrClosed = errors.New("the connection to QEMU has ended")

// maxLine bounds one message, in bytes; the longest that QEMU sends is its schema, some 300 KB.
const maxLine = 1 << 20

// Client is a connection to one QEMU.
type Client struct {
	conn   *net.UnixConn
	events func(Event)

	greeted chan struct{}
	ended   chan struct{}
	err     error // why it ended; set before ended is closed

	mu      sync.Mutex // one command at a time
	replyMu sync.Mutex
	nextID  uint64
	waiting map[uint64]chan message
}

// New speaks QMP on conn. events is called from the client's reading goroutine and must not call back
// into the client.
func New(conn *net.UnixConn, events func(Event)) *Client {
	c := &Client{conn: conn, events: events, greeted: make(chan struct{}), ended: make(chan struct{}), waiting: map[uint64]chan message{}}
	go c.read()
	return c
}

// Start waits for QEMU's greeting and opens the command mode.
func (c *Client) Start(ctx context.Context) error {
	select {
	case <-c.greeted:
	case <-c.ended:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("wait for QEMU to greet: %w", ctx.Err())
	}
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Close ends the connection and waits for the reader.
func (c *Client) Close() {
	c.conn.Close()
	<-c.ended
}

func (c *Client) read() {
	defer close(c.ended)
	r := bufio.NewScanner(c.conn)
	r.Buffer(make([]byte, 0, 4096), maxLine)
	greeted := false
	for r.Scan() {
		if len(r.Bytes()) == 0 {
			continue
		}
		m, err := parse(r.Bytes())
		if err != nil {
			c.err = err
			c.conn.Close()
			return
		}
		switch {
		case m.greeting != nil:
			if !greeted {
				greeted = true
				close(c.greeted)
			}
		case m.event != nil:
			if c.events != nil {
				c.events(*m.event)
			}
		default:
			c.replyMu.Lock()
			ch := c.waiting[m.id]
			delete(c.waiting, m.id)
			c.replyMu.Unlock()
			if ch != nil {
				ch <- m
			}
		}
	}
	c.err = ErrClosed
	if err := r.Err(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
}

// Execute runs a command and decodes what it returns into result, unless that is nil.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	return c.execute(ctx, command, args, result, nil)
}

// SendFile gives QEMU an open file under a name, which "fd:name" then means in a command.
func (c *Client) SendFile(ctx context.Context, name string, f *os.File) error {
	return c.execute(ctx, "getfd", map[string]any{"fdname": name}, nil, f)
}

func (c *Client) execute(ctx context.Context, command string, args, result any, file *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply := make(chan message, 1)
	c.replyMu.Lock()
	c.nextID++
	id := c.nextID
	c.waiting[id] = reply
	c.replyMu.Unlock()
	defer func() {
		c.replyMu.Lock()
		delete(c.waiting, id)
		c.replyMu.Unlock()
	}()

	req := map[string]any{"execute": command, "id": id}
	if args != nil {
		req["arguments"] = args
	}
	line, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode %s: %w", command, err)
	}
	deadline, _ := ctx.Deadline() // zero: none, and takes away that of the command before
	_ = c.conn.SetWriteDeadline(deadline)
	var oob []byte
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
	}
	if _, _, err := c.conn.WriteMsgUnix(append(line, '\n'), oob, nil); err != nil {
		return fmt.Errorf("send %s to QEMU: %w", command, err)
	}
	select {
	case m := <-reply:
		if m.fail != nil {
			m.fail.Command = command
			return m.fail
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.ret, result); err != nil {
			return fmt.Errorf("reply of QEMU to %s: %w", command, err)
		}
		return nil
	case <-c.ended:
		return fmt.Errorf("%s: %w", command, c.err)
	case <-ctx.Done():
		return fmt.Errorf("wait for QEMU to answer %s: %w", command, ctx.Err())
	}
}
