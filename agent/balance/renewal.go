package balance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// renewer moves the lease's end in the kernel: a socket and a prepared message, since this runs every
// 100 ms for ever, on slow machines too. The message is one nftables batch that, in both guarded tables,
//
//   - adds the element N to the set "lease", with what is left of the lease as its timeout, and
//   - replaces the one rule of the chain "lease" by: N is in the set, and the wall clock is before the
//     deadline: accept.
//
// N is new every time. The kernel (6.1) cannot change the timeout of an element, and to delete and add the
// same one would, on kernels before the fix of 2025, let a packet see neither for an instant. Elements
// that are not referred to any more vanish by themselves.
type renewer struct {
	fd  int
	seq uint32
	n   uint32 // the last N

	msg []byte
	// Where in msg the parts are that change.
	seqs, keys, timeouts, deadlines []int
}

// minTimeout is one tick of the slowest kernel clock (100 Hz): a timeout that is rounded down to zero
// ticks would mean "for ever".
const minTimeout = 10 * time.Millisecond

func openRenewer() (*renewer, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind netfilter socket: %w", err)
	}
	// The answer to a batch is there when sendto returns; a second without means that none will come.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("netfilter socket: %w", err)
	}
	r := &renewer{fd: fd}
	r.prepare()
	return r, nil
}

func (r *renewer) close() { _ = unix.Close(r.fd) }

// renew sets the end of the lease to until on the boot clock.
//
// The two limits in the kernel fail in different ways. The timeout is counted from when the kernel gets
// the message: if we are stopped just before it is sent, it comes too late and is too long. The deadline
// is absolute, so it does not mind, but it is on the wall clock, which somebody may set back. Both must
// hold, so it takes both accidents at once to keep the guard open.
func (r *renewer) renew(until time.Duration) error {
	offset := wallOffset()
	return r.send(until-Now(), until+offset)
}

// send sets both limits: the time that is left, and the deadline on the wall clock.
func (r *renewer) send(left, deadline time.Duration) error {
	left, deadline = max(left, minTimeout), max(deadline, 0)
	// Unique also against those of an agent before us in this boot: milliseconds of the boot clock.
	r.n = max(r.n+1, uint32(Now()/time.Millisecond))
	for _, at := range r.keys {
		binary.NativeEndian.PutUint32(r.msg[at:], r.n)
	}
	for _, at := range r.timeouts {
		binary.BigEndian.PutUint64(r.msg[at:], uint64(left/time.Millisecond))
	}
	for _, at := range r.deadlines {
		binary.BigEndian.PutUint64(r.msg[at:], uint64(deadline))
	}
	for _, at := range r.seqs {
		r.seq++
		binary.NativeEndian.PutUint32(r.msg[at:], r.seq)
	}
	if err := unix.Sendto(r.fd, r.msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("renew the lease guard: %w", err)
	}
	return r.answer(r.seq - 1) // the one before the batch's end asked for an acknowledgement
}

// answer reads until the acknowledgement of message last. Any error before it means that nothing of the
// batch was done.
func (r *renewer) answer(last uint32) error {
	var failed error
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if failed != nil {
				return failed
			}
			return fmt.Errorf("renew the lease guard: no answer from the kernel: %w", err)
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr+4 || size > len(b) {
				break
			}
			seq := binary.NativeEndian.Uint32(b[8:])
			if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR && int32(last-seq) < 16 && int32(last-seq) >= -1 {
				if code := int32(binary.NativeEndian.Uint32(b[16:])); code != 0 && failed == nil {
					failed = fmt.Errorf("renew the lease guard: %w", unix.Errno(-code))
				}
				if seq == last || seq == last+1 {
					return failed
				}
			}
			b = b[min(len(b), align4(size)):]
		}
	}
}

func align4(n int) int { return (n + 3) &^ 3 }

// prepare builds the message once.
func (r *renewer) prepare() {
	r.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	families := []byte{unix.NFPROTO_IPV4, unix.NFPROTO_NETDEV}
	for i, family := range families {
		nft := func(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }
		r.message(nft(unix.NFT_MSG_NEWSETELEM), unix.NLM_F_CREATE, family, 0, func() {
			r.str(unix.NFTA_SET_ELEM_LIST_TABLE, Table)
			r.str(unix.NFTA_SET_ELEM_LIST_SET, setLease)
			r.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				r.nest(unix.NFTA_LIST_ELEM, func() {
					r.nest(unix.NFTA_SET_ELEM_KEY, func() { r.keys = append(r.keys, r.blank(unix.NFTA_DATA_VALUE, 4)) })
					r.timeouts = append(r.timeouts, r.blank(unix.NFTA_SET_ELEM_TIMEOUT, 8))
				})
			})
		})
		r.message(nft(unix.NFT_MSG_DELRULE), 0, family, 0, func() { // without a handle: all rules of the chain
			r.str(unix.NFTA_RULE_TABLE, Table)
			r.str(unix.NFTA_RULE_CHAIN, chainLease)
		})
		flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_APPEND)
		if i == len(families)-1 {
			flags |= unix.NLM_F_ACK
		}
		r.message(nft(unix.NFT_MSG_NEWRULE), flags, family, 0, func() {
			r.str(unix.NFTA_RULE_TABLE, Table)
			r.str(unix.NFTA_RULE_CHAIN, chainLease)
			r.nest(unix.NFTA_RULE_EXPRESSIONS, r.leaseRule)
		})
	}
	r.message(unix.NFNL_MSG_BATCH_END, 0, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
}

// leaseRule: N in @lease, time < deadline, accept.
func (r *renewer) leaseRule() {
	r.expr("immediate", func() {
		r.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1)
		r.nest(unix.NFTA_IMMEDIATE_DATA, func() { r.keys = append(r.keys, r.blank(unix.NFTA_DATA_VALUE, 4)) })
	})
	r.expr("lookup", func() {
		r.str(unix.NFTA_LOOKUP_SET, setLease)
		r.u32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)
	})
	r.expr("meta", func() {
		r.u32(unix.NFTA_META_KEY, metaTime)
		r.u32(unix.NFTA_META_DREG, unix.NFT_REG_2)
	})
	r.expr("byteorder", func() { // bytes are compared first to last, so it must be big-endian
		r.u32(unix.NFTA_BYTEORDER_SREG, unix.NFT_REG_2)
		r.u32(unix.NFTA_BYTEORDER_DREG, unix.NFT_REG_2)
		r.u32(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
		r.u32(unix.NFTA_BYTEORDER_LEN, 8)
		r.u32(unix.NFTA_BYTEORDER_SIZE, 8)
	})
	r.expr("cmp", func() {
		r.u32(unix.NFTA_CMP_SREG, unix.NFT_REG_2)
		r.u32(unix.NFTA_CMP_OP, unix.NFT_CMP_LT)
		r.nest(unix.NFTA_CMP_DATA, func() { r.deadlines = append(r.deadlines, r.blank(unix.NFTA_DATA_VALUE, 8)) })
	})
	r.expr("immediate", func() {
		r.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		r.nest(unix.NFTA_IMMEDIATE_DATA, func() {
			r.nest(unix.NFTA_DATA_VERDICT, func() { r.u32(unix.NFTA_VERDICT_CODE, 1) }) // NF_ACCEPT
		})
	})
}

// metaTime is NFT_META_TIME_NS: the wall clock in nanoseconds, read from the clock itself for each packet
// and not from the tick counter, so it is right also in the first instant after a machine was frozen.
const metaTime = 30

func (r *renewer) message(kind, flags uint16, family byte, resource uint16, body func()) {
	start := len(r.msg)
	r.msg = append(r.msg, make([]byte, unix.SizeofNlMsghdr)...)
	binary.NativeEndian.PutUint16(r.msg[start+4:], kind)
	binary.NativeEndian.PutUint16(r.msg[start+6:], flags|unix.NLM_F_REQUEST)
	r.seqs = append(r.seqs, start+8)
	r.msg = append(r.msg, family, 0)
	r.msg = binary.BigEndian.AppendUint16(r.msg, resource)
	if body != nil {
		body()
	}
	binary.NativeEndian.PutUint32(r.msg[start:], uint32(len(r.msg)-start))
}

func (r *renewer) nest(kind uint16, body func()) {
	start := len(r.msg)
	r.msg = append(r.msg, 0, 0, 0, 0)
	body()
	r.head(start, kind|unix.NLA_F_NESTED)
}

func (r *renewer) head(start int, kind uint16) {
	binary.NativeEndian.PutUint16(r.msg[start:], uint16(len(r.msg)-start))
	binary.NativeEndian.PutUint16(r.msg[start+2:], kind)
	for len(r.msg)%4 != 0 {
		r.msg = append(r.msg, 0)
	}
}

// blank adds an attribute of size zero bytes and returns where they are.
func (r *renewer) blank(kind uint16, size int) int {
	start := len(r.msg)
	r.msg = append(r.msg, make([]byte, 4+size)...)
	r.head(start, kind)
	return start + 4
}

func (r *renewer) str(kind uint16, s string) {
	copy(r.msg[r.blank(kind, len(s)+1):], s)
}

func (r *renewer) u32(kind uint16, v uint32) {
	at := r.blank(kind, 4)
	binary.BigEndian.PutUint32(r.msg[at:], v)
}

func (r *renewer) expr(name string, body func()) {
	r.nest(unix.NFTA_LIST_ELEM, func() {
		r.str(unix.NFTA_EXPR_NAME, name)
		r.nest(unix.NFTA_EXPR_DATA, body)
	})
}
