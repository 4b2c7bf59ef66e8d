// Package speed measures how fast disks are read, several beside each other: a disk's paths and the map over them. It only
// reads, past the page cache, and may be run on a disk in use, which it slows down meanwhile.
//
// The devices take turns of a tenth of a second, so that what else the machine does falls on all alike.
package speed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	small = 4 << 10 // bytes of one read when latency is measured
	large = 1 << 20 // bytes of one read when throughput is measured
	depth = 4       // large reads under way at once
	turn  = 100 * time.Millisecond
)

// MaxTime bounds one measurement.
const MaxTime = time.Minute

// Result is what was measured of one device.
type Result struct {
	Device string `json:"device"`
	// Latency of reading 4 KiB at random places, one after the other.
	Reads  int           `json:"reads"`
	Median time.Duration `json:"median_ns"`
	P99    time.Duration `json:"p99_ns"`
	// Throughput of reading 1 MiB pieces from the start on, four at once, bytes a second.
	Throughput float64 `json:"throughput_bytes_per_s"`
	// Error is why the device could not be measured to the end, empty if it was.
	Error string `json:"error,omitempty"`
}

type device struct {
	f    *os.File
	size int64
	took []time.Duration
	read int64 // bytes of large reads
	in   time.Duration
	next int64
	err  error
}

// Measure reads the devices for about the time given, at least one turn of each kind of each. The results are in the order
// of the devices. The error is ctx's, or that there is nothing to measure.
func Measure(ctx context.Context, devices []string, during time.Duration) ([]Result, error) {
	if len(devices) == 0 || during <= 0 || during > MaxTime {
		return nil, fmt.Errorf("measure %d devices for %s: it takes one at least, and up to %s", len(devices), during, MaxTime)
	}
	list := make([]*device, len(devices))
	for i, name := range devices {
		list[i] = open(name)
		defer list[i].close()
	}
	for begin := time.Now(); ; {
		for _, d := range list {
			d.latency(ctx)
			d.throughput(ctx)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if time.Since(begin) >= during {
			break
		}
	}
	out := make([]Result, len(list))
	for i, d := range list {
		out[i] = d.result(devices[i])
	}
	return out, nil
}

func open(name string) *device {
	d := &device{}
	if d.f, d.err = os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0); d.err != nil {
		return d
	}
	if d.size, d.err = d.f.Seek(0, io.SeekEnd); d.err == nil && d.size < large {
		d.err = fmt.Errorf("%s has %d bytes, which is too little to measure", name, d.size)
	}
	return d
}

func (d *device) close() {
	if d.f != nil {
		d.f.Close()
	}
}

func (d *device) latency(ctx context.Context) {
	buf := aligned(small)
	for begin := time.Now(); d.err == nil && ctx.Err() == nil && time.Since(begin) < turn; {
		at := rand.Int64N(d.size/small) * small
		one := time.Now()
		if _, d.err = d.f.ReadAt(buf, at); d.err == nil {
			d.took = append(d.took, time.Since(one))
		}
	}
}

func (d *device) throughput(ctx context.Context) {
	if d.err != nil {
		return
	}
	var wg sync.WaitGroup
	var read, next atomic.Int64
	var mu sync.Mutex
	next.Store(d.next)
	begin := time.Now()
	for range depth {
		wg.Go(func() {
			buf := aligned(large)
			for ctx.Err() == nil && time.Since(begin) < turn {
				at := (next.Add(1) - 1) % (d.size / large) * large
				n, err := d.f.ReadAt(buf, at)
				read.Add(int64(n))
				if err != nil {
					mu.Lock()
					d.err = errors.Join(d.err, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	d.in += time.Since(begin)
	d.read, d.next = d.read+read.Load(), next.Load()
}

func (d *device) result(name string) Result {
	r := Result{Device: name, Reads: len(d.took)}
	if d.err != nil {
		r.Error = d.err.Error()
	}
	if len(d.took) > 0 {
		slices.Sort(d.took)
		r.Median, r.P99 = d.took[len(d.took)/2], d.took[len(d.took)*99/100]
	}
	if d.in > 0 {
		r.Throughput = float64(d.read) / d.in.Seconds()
	}
	return r
}

// aligned is memory as O_DIRECT wants it, for blocks of up to 4 KiB.
func aligned(n int) []byte {
	raw := make([]byte, n+small)
	at := int(-uintptr(unsafe.Pointer(&raw[0])) & (small - 1))
	return raw[at : at+n : at+n]
}
