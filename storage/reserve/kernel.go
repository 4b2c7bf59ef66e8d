package reserve

import (
	"fmt"
	"unsafe"
)

// The kernel's own reservation commands (linux/pr.h), numbers as _IOW('p', n, size) makes them.
const (
	iocRegister     = 1<<30 | 24<<16 | 'p'<<8 | 200
	iocReserve      = 1<<30 | 16<<16 | 'p'<<8 | 201
	iocRelease      = 1<<30 | 16<<16 | 'p'<<8 | 202
	iocPreempt      = 1<<30 | 24<<16 | 'p'<<8 | 203
	iocPreemptAbort = 1<<30 | 24<<16 | 'p'<<8 | 204
	iocClear        = 1<<30 | 16<<16 | 'p'<<8 | 205

	prWriteExclusiveRegistrantsOnly = 3
	prIgnoreKey                     = 1
)

// prTwo is struct pr_registration and struct pr_preempt; prOne is struct pr_reservation and struct pr_clear.
type prTwo struct {
	old, new    uint64
	first, then uint32
}

type prOne struct {
	key         uint64
	first, then uint32
}

// kernelCall is the ioctl for a command: its number and one of the two structures.
//
// PREEMPT's old key is one's own and the new key the victim's: sd passes them on as RESERVATION KEY and SERVICE
// ACTION RESERVATION KEY. Documentation/block/pr.rst has it the other way round, and is wrong.
func (c Command) kernelCall() (request uintptr, two prTwo, one prOne, err error) {
	const wero = prWriteExclusiveRegistrantsOnly
	mine := uint64(c.Key)
	switch c.Op {
	case Register, RegisterIgnore:
		if !c.APTPL {
			return 0, two, one, fmt.Errorf("the kernel always asks for registrations that outlast the target's power")
		}
		two = prTwo{old: mine, new: uint64(c.New)}
		if c.Op == RegisterIgnore {
			two.old, two.first = 0, prIgnoreKey
		}
		return iocRegister, two, one, nil
	case Preempt:
		return iocPreempt, prTwo{old: mine, new: uint64(c.Victim), first: wero}, one, nil
	case PreemptAbort:
		return iocPreemptAbort, prTwo{old: mine, new: uint64(c.Victim), first: wero}, one, nil
	case Reserve:
		return iocReserve, two, prOne{key: mine, first: wero}, nil
	case Release:
		return iocRelease, two, prOne{key: mine, first: wero}, nil
	case Clear:
		return iocClear, two, prOne{key: mine}, nil
	default:
		return 0, two, one, fmt.Errorf("the kernel has no ioctl for %q", c.Op)
	}
}

func (d *Device) reserveByKernel(c Command) error {
	request, two, one, err := c.kernelCall()
	if err != nil {
		return &Error{d.path, c.Op, ErrUnsupported, err.Error()}
	}
	arg := unsafe.Pointer(&two)
	if request == iocReserve || request == iocRelease || request == iocClear {
		arg = unsafe.Pointer(&one)
	}
	result, errno := ioctl(d.fd, request, arg)
	if errno != 0 {
		return &Error{d.path, c.Op, errnoKind(errno), errno.Error()}
	}
	if detail, kind := kernelVerdict(result); kind != nil {
		return &Error{d.path, c.Op, kind, detail}
	}
	return nil
}

// kernelVerdict reads an ioctl's positive result: the SCSI status in bits 0-7, the middle layer's opinion in
// bits 8-15, the host code in bits 16-23. The sense data is in the kernel's log and nowhere else, so a check
// condition that the middle layer has no opinion of may have been a unit attention.
func kernelVerdict(result int) (detail string, kind error) {
	const targetFailure = 0x04 // scsi_priv.h: an ILLEGAL REQUEST, mostly
	status, opinion, host := uint8(result), uint8(result>>8), uint16(result>>16&0xff)
	switch {
	case status == statusCheck && opinion == targetFailure:
		return "the target refused it; the reason is in the kernel's log", ErrUnsupported
	case status == statusCheck:
		return "check condition; the reason is in the kernel's log", ErrAttention
	default:
		_, detail, kind = verdict(status, nil, host)
		return detail, kind
	}
}
