package execute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/job/worker"
)

// Output keeps what tasks wrote, in a file for each job:
//
//	position, length of stdout, length of stderr, bytes dropped (four bytes each, big-endian), stdout, stderr
//
// one after the other as tasks ended. A task that was run again is there twice, and the last counts.
type Output struct {
	dir     string
	mostJob int64
	mostAll int64

	mu   sync.Mutex
	jobs map[string]*jobOutput
}

type jobOutput struct {
	f    *os.File
	size int64
	at   map[int32]int64
	used time.Time
}

const outputHead = 16

// OpenOutput keeps output in a folder, so many bytes of one job and of all of them. What is there from before is kept.
func OpenOutput(dir string, mostJob, mostAll int64) (*Output, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder for the output of jobs: %w", err)
	}
	o := &Output{dir: dir, mostJob: mostJob, mostAll: mostAll, jobs: map[string]*jobOutput{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("output of jobs: %w", err)
	}
	for _, e := range entries {
		if err := o.reopen(e.Name()); err != nil {
			return nil, fmt.Errorf("output of job %s: %w", e.Name(), err)
		}
	}
	return o, nil
}

// reopen finds where tasks begin in a file of an earlier agent; what was half written is cut off.
func (o *Output) reopen(id string) error {
	f, err := os.OpenFile(filepath.Join(o.dir, id), os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j := &jobOutput{f: f, at: map[int32]int64{}, used: st.ModTime()}
	var head [outputHead]byte
	for j.size+outputHead <= st.Size() {
		if _, err := f.ReadAt(head[:], j.size); err != nil {
			return errors.Join(err, f.Close())
		}
		next := j.size + outputHead + int64(binary.BigEndian.Uint32(head[4:])) + int64(binary.BigEndian.Uint32(head[8:]))
		if next > st.Size() {
			break
		}
		j.at[int32(binary.BigEndian.Uint32(head[:]))] = j.size
		j.size = next
	}
	o.jobs[id] = j
	return f.Truncate(j.size)
}

// ErrFull: the job has written more than is kept of one.
var ErrFull = errors.New("the job has written more than this node keeps of one job")

// Put keeps the output of a task. A task that wrote nothing takes no room.
func (o *Output) Put(id string, e worker.End) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	j := o.jobs[id]
	if j == nil {
		if len(e.Stdout)+len(e.Stderr) == 0 {
			return nil
		}
		f, err := os.OpenFile(filepath.Join(o.dir, id), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		j = &jobOutput{f: f, at: map[int32]int64{}}
		o.jobs[id] = j
	}
	if len(e.Stdout)+len(e.Stderr) == 0 {
		delete(j.at, e.Pos) // of an earlier run
		return nil
	}
	rec := make([]byte, outputHead, outputHead+len(e.Stdout)+len(e.Stderr))
	binary.BigEndian.PutUint32(rec, uint32(e.Pos))
	binary.BigEndian.PutUint32(rec[4:], uint32(len(e.Stdout)))
	binary.BigEndian.PutUint32(rec[8:], uint32(len(e.Stderr)))
	binary.BigEndian.PutUint32(rec[12:], e.Dropped)
	rec = append(append(rec, e.Stdout...), e.Stderr...)
	if j.size+int64(len(rec)) > o.mostJob {
		return ErrFull
	}
	o.makeRoom(id, int64(len(rec)))
	if _, err := j.f.WriteAt(rec, j.size); err != nil {
		return errors.Join(err, j.f.Truncate(j.size))
	}
	j.at[e.Pos], j.used = j.size, time.Now()
	j.size += int64(len(rec))
	return nil
}

// makeRoom drops the output of the jobs that wrote longest ago.
func (o *Output) makeRoom(but string, more int64) {
	for {
		sum := more
		oldest := ""
		for id, j := range o.jobs {
			sum += j.size
			if id != but && (oldest == "" || j.used.Before(o.jobs[oldest].used)) {
				oldest = id
			}
		}
		if sum <= o.mostAll || oldest == "" {
			return
		}
		o.remove(oldest)
	}
}

func (o *Output) remove(id string) {
	if j := o.jobs[id]; j != nil {
		j.f.Close()
		_ = os.Remove(filepath.Join(o.dir, id)) // emptied with the next boot at the latest
		delete(o.jobs, id)
	}
}

// Keep removes the output of all jobs but those.
func (o *Output) Keep(ids func(string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range o.jobs {
		if !ids(id) {
			o.remove(id)
		}
	}
}

// Text is the output of one task.
type Text struct {
	Pos     int32  `json:"pos"`
	Stdout  []byte `json:"stdout,omitempty"`
	Stderr  []byte `json:"stderr,omitempty"`
	Dropped uint32 `json:"dropped,omitempty"` // bytes that were not kept
}

// Read calls fn for what tasks of a job wrote, from from to to exclusive, by position. Those that wrote nothing are left out.
func (o *Output) Read(id string, from, to int32, fn func(Text) error) error {
	o.mu.Lock()
	var list []int32
	if j := o.jobs[id]; j != nil {
		if int(to)-int(from) < len(j.at) {
			for p := from; p < to; p++ {
				if _, ok := j.at[p]; ok {
					list = append(list, p)
				}
			}
		} else {
			for p := range j.at {
				if p >= from && p < to {
					list = append(list, p)
				}
			}
			slices.Sort(list)
		}
	}
	o.mu.Unlock()
	for _, p := range list {
		t, err := o.read(id, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile
		}
		if err != nil {
			return fmt.Errorf("output of task %d of job %s: %w", p, id, err)
		}
		if err := fn(t); err != nil {
			return err
		}
	}
	return nil
}

func (o *Output) read(id string, p int32) (Text, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	j := o.jobs[id]
	if j == nil {
		return Text{}, fs.ErrNotExist
	}
	at, ok := j.at[p]
	if !ok {
		return Text{}, fs.ErrNotExist
	}
	var head [outputHead]byte
	if _, err := j.f.ReadAt(head[:], at); err != nil {
		return Text{}, err
	}
	n, m := int64(binary.BigEndian.Uint32(head[4:])), int64(binary.BigEndian.Uint32(head[8:]))
	buf := make([]byte, n+m)
	if _, err := j.f.ReadAt(buf, at+outputHead); err != nil && !errors.Is(err, io.EOF) {
		return Text{}, err
	}
	return Text{Pos: p, Stdout: buf[:n], Stderr: buf[n:], Dropped: binary.BigEndian.Uint32(head[12:])}, nil
}
