package agent

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/cluster"
)

// warmUpID is the instance that warmUp runs. It is in no ledger: the runner removes one that an agent left.
const warmUpID = "skein.warm-up"

// warmUp starts a container that ends at once, of an image that is here anyway. The first start on a node
// costs several times the next one (code that was never run, caches that are empty), and without this the
// first one would be a takeover.
func (p *parts) warmUp(ctx context.Context, im cluster.Image) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := balance.Now()
	_, err := p.runtime.Start(ctx, cluster.Instance{
		ID: warmUpID, Stack: "skein", Service: "warm-up", Slot: 1, Node: p.a.id.Name, BootID: p.a.id.BootID,
		Spec: cluster.Service{
			Stack: "skein", Name: "warm-up", Image: im.Ref, ImageDigest: im.Digest, Entrypoint: []string{"/.skein-warm-up"},
			Files:  []cluster.File{{Target: "/.skein-warm-up", Mode: 0o555, Content: exitProgram()}},
			Limits: cluster.Resources{Memory: 32 << 20, Pids: 4},
		},
	}, 0)
	if err == nil {
		select {
		case <-p.runtime.Wait(warmUpID):
		case <-ctx.Done():
		}
	}
	if rerr := p.runtime.Remove(context.WithoutCancel(ctx), warmUpID); rerr != nil && err == nil {
		err = rerr
	}
	if err != nil {
		p.a.log.Warn("the first takeover on this node will take longer than others", "err", err)
		return
	}
	p.a.log.Info("containers are warm", "took", (balance.Now() - began).Round(time.Millisecond))
}

// exitProgram is the smallest program there is: a 64-bit ELF file whose code is exit(0). Images need not
// hold any program that could be run without an effect.
func exitProgram() []byte {
	code := []byte{
		0x31, 0xff, // xor edi, edi
		0xb8, 0x3c, 0, 0, 0, // mov eax, 60 (exit)
		0x0f, 0x05, // syscall
	}
	const base, header = 0x400000, 64 + 56 // ELF header, one program header
	size := uint64(header + len(code))
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	b = le.AppendUint16(b, 2)                         // executable
	b = le.AppendUint16(b, 62)                        // x86-64
	b = le.AppendUint32(b, 1)                         // version
	b = le.AppendUint64(b, base+header)               // entry
	b = le.AppendUint64(b, 64)                        // program headers follow
	b = le.AppendUint64(b, 0)                         // no section headers
	b = le.AppendUint32(b, 0)                         // flags
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} { // sizes and counts of headers
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1)                                       // load
	b = le.AppendUint32(b, 5)                                       // readable, executable
	for _, v := range []uint64{0, base, base, size, size, 0x1000} { // offset, addresses, sizes, alignment
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}
