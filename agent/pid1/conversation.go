package pid1

import (
	"io"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
)

// conversation is PID 1's end of the socket to one agent.
type conversation struct {
	rw     io.ReadWriteCloser
	once   sync.Once
	closed chan struct{}
}

func (c *conversation) close() {
	c.once.Do(func() {
		close(c.closed)
		c.rw.Close()
	})
}

// linger keeps reading what a dead agent still had to say, for a bounded time: a descendant of it may hold
// the socket open for good.
func (c *conversation) linger() {
	if d, ok := c.rw.(interface{ SetDeadline(time.Time) error }); ok && d.SetDeadline(time.Now().Add(lingerTime)) == nil {
		return
	}
	c.close()
}

// tell writes exits to the agent until there are no more or the agent cannot hear. Several are put into one
// write: a replay is a thousand of them.
func (c *conversation) tell(exits <-chan control.Event) {
	var buf []byte
	for {
		var e control.Event
		var ok bool
		select {
		case e, ok = <-exits:
		case <-c.closed:
			return
		}
		if !ok {
			return
		}
		buf = control.AppendLine(buf[:0], e)
		for more := true; more && len(buf) < 32<<10; {
			select {
			case e, ok := <-exits:
				if more = ok; ok {
					buf = control.AppendLine(buf, e)
				}
			default:
				more = false
			}
		}
		if _, err := c.rw.Write(buf); err != nil {
			return // the listener hears the same and ends the conversation
		}
	}
}

// tasks are goroutines that their owner waits for. A panic in one of them is a panic of PID 1.
type tasks struct{ group sync.WaitGroup }

func (t *tasks) start(f func()) {
	t.group.Go(func() {
		defer dieOnPanic()
		f()
	})
}

func (t *tasks) wait() { t.group.Wait() }
