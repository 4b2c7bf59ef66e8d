package worker

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/skein-os/skein/agent/job"
)

// Kinds of frames: one byte kind, four bytes position, four bytes length, big-endian; payload.
const (
	frameSetup = 'S' // to the worker, first: Setup as JSON
	frameRun   = 'R' // to the worker: eight bytes index, the input
	frameKill  = 'K' // to the worker
	frameEnd   = 'E' // from the worker: how a task ended, and its output
)

// MaxOutput is how many bytes of each stream of a task are kept; what comes after them is counted and dropped.
const MaxOutput = 256 << 10

// maxFrame bounds a frame's payload: an end with all its output, or a setup with the largest command and environment.
const maxFrame = 2*MaxOutput + 1<<20

// Setup is what all tasks of a job have in common.
type Setup struct {
	Job  string   `json:"job"`
	Spec job.Spec `json:"spec"`
	// Env is the environment of tasks beside that of the worker itself; nil: the worker's.
	Env []string `json:"env,omitempty"`
	// Parallel is how many tasks run at once; those that come on top wait, so that the next one needs no word of the
	// agent. 0: all.
	Parallel int `json:"parallel,omitempty"`
}

// End is how a task ended.
type End struct {
	job.Result
	Stdout, Stderr []byte
	Dropped        uint32 // bytes of output beyond MaxOutput
}

func writeFrame(w io.Writer, kind byte, pos int32, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d are allowed", n, maxFrame)
	}
	var head [9]byte
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(pos))
	binary.BigEndian.PutUint32(head[5:], uint32(n))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

func readFrame(r io.Reader) (kind byte, pos int32, payload []byte, err error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[5:])
	if n > maxFrame {
		return 0, 0, nil, fmt.Errorf("frame of %d bytes, at most %d are allowed", n, maxFrame)
	}
	payload = make([]byte, n)
	if _, err = io.ReadFull(r, payload); errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return head[0], int32(binary.BigEndian.Uint32(head[1:])), payload, err
}

const endHead = 1 + 4 + 8 + 4 + 4

func writeEnd(w io.Writer, e End) error {
	var h [endHead]byte
	h[0] = byte(e.End)
	binary.BigEndian.PutUint32(h[1:], uint32(int32(e.Code)))
	binary.BigEndian.PutUint64(h[5:], uint64(e.Took))
	binary.BigEndian.PutUint32(h[13:], e.Dropped)
	binary.BigEndian.PutUint32(h[17:], uint32(len(e.Stdout)))
	return writeFrame(w, frameEnd, e.Pos, h[:], e.Stdout, e.Stderr)
}

func parseEnd(pos int32, p []byte) (End, error) {
	if len(p) < endHead {
		return End{}, fmt.Errorf("end of a task in %d bytes, at least %d are needed", len(p), endHead)
	}
	e := End{Result: job.Result{Pos: pos, End: job.End(p[0]), Code: int(int32(binary.BigEndian.Uint32(p[1:]))), Took: time.Duration(binary.BigEndian.Uint64(p[5:]))}}
	e.Dropped = binary.BigEndian.Uint32(p[13:])
	n := binary.BigEndian.Uint32(p[17:])
	rest := p[endHead:]
	if int64(n) > int64(len(rest)) || n > MaxOutput || len(rest)-int(n) > MaxOutput || e.End > job.NotStarted || pos < 0 || e.Took < 0 {
		return End{}, errors.New("end of a task that cannot be")
	}
	e.Stdout, e.Stderr = rest[:n], rest[n:]
	return e, nil
}

// Conn is the agent's half of the conversation with one worker. Its methods may not be called concurrently, except Run
// and Kill beside Next.
type Conn struct {
	w io.Writer
	r *bufio.Reader
}

// Open begins the conversation.
func Open(w io.Writer, r io.Reader, s Setup) (*Conn, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(w, frameSetup, 0, data); err != nil {
		return nil, fmt.Errorf("set a worker up: %w", err)
	}
	return &Conn{w: w, r: bufio.NewReaderSize(r, 64<<10)}, nil
}

// Run has a task run.
func (c *Conn) Run(pos int32, index int64, input string) error {
	buf := make([]byte, 0, 9+8+len(input))
	buf = append(buf, frameRun)
	buf = binary.BigEndian.AppendUint32(buf, uint32(pos))
	buf = binary.BigEndian.AppendUint32(buf, uint32(8+len(input)))
	buf = binary.BigEndian.AppendUint64(buf, uint64(index))
	_, err := c.w.Write(append(buf, input...))
	return err
}

// Kill has a task killed, if it runs; its end is told like any other's.
func (c *Conn) Kill(pos int32) error { return writeFrame(c.w, frameKill, pos) }

// Next waits for the end of a task. An error means that the worker is gone or talks nonsense, and is to be given up.
func (c *Conn) Next() (End, error) {
	kind, pos, payload, err := readFrame(c.r)
	if err != nil {
		return End{}, err
	}
	if kind != frameEnd {
		return End{}, fmt.Errorf("the worker sent a frame of kind %q", kind)
	}
	return parseEnd(pos, payload)
}
