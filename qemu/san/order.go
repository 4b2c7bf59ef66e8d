package san

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Op names an order.
type Op string

const (
	// OpShow only asks how the array is. So do all others, after they have done what they say.
	OpShow Op = "show"
	// OpRestart ends the target and starts it again: all sessions end. Registrations made with APTPL are there again,
	// others are not.
	OpRestart Op = "restart"
	// OpLose is OpRestart by an array that has kept no registration of the LUN, or of all if LUN is negative.
	OpLose Op = "lose-reservations"
	// OpSlow makes every read, write and flush of the LUN, or of all if LUN is negative, take Delay longer.
	OpSlow Op = "slow"
	// OpRefuse closes a portal: its connections are reset and new ones refused. OpAccept opens it.
	OpRefuse Op = "refuse"
	OpAccept Op = "accept"
	// OpResize gives the LUN another size, at most that of its disk, and tells nobody.
	OpResize Op = "resize"
	// OpWithdraw takes the LUN away from all initiators, with its reservations' file kept. OpPresent gives it back.
	OpWithdraw Op = "withdraw"
	OpPresent  Op = "present"
	// OpDeny makes the LUN, or all if LUN is negative, one without persistent reservations, as cheap arrays have them.
	// OpAllow ends that. Either restarts the target.
	OpDeny  Op = "deny-reservations"
	OpAllow Op = "allow-reservations"
	// OpCHAP demands that initiators prove that they know User's Secret; without a User anybody may log in again.
	// Sessions that are there stay.
	OpCHAP Op = "chap"
)

// Order is what the array is told.
type Order struct {
	ID     uint64        `json:"id"`
	Op     Op            `json:"op"`
	LUN    int           `json:"lun"` // negative: all
	Delay  time.Duration `json:"delay,omitempty"`
	Portal int           `json:"portal,omitempty"` // number of its network
	Size   int64         `json:"size,omitempty"`   // bytes
	User   string        `json:"user,omitempty"`
	Secret string        `json:"secret,omitempty"`
}

// MaxDelay is the longest that I/O is held back. Initiators have given up long before, and after two minutes the
// array's own kernel would say that its tasks hang, which is an alarm.
const MaxDelay = 90 * time.Second

// Answer to an order.
type Answer struct {
	ID     uint64  `json:"id"`
	Error  string  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
}

// Status of the array.
type Status struct {
	LUNs     []LUN    `json:"luns"`
	Portals  []Portal `json:"portals"`
	Sessions []string `json:"sessions"` // initiators that are logged in, by one or more
	// Up: the machine has been up for this long.
	Up time.Duration `json:"up"`
}

// LUN is a disk of the array.
type LUN struct {
	Number int           `json:"number"`
	Size   int64         `json:"size"` // bytes
	WWN    string        `json:"wwn"`
	Serial string        `json:"serial"`
	Delay  time.Duration `json:"delay,omitempty"` // of each command, by order
	// Withdrawn, Unreserved: by order, see OpWithdraw and OpDeny.
	Withdrawn  bool `json:"withdrawn,omitempty"`
	Unreserved bool `json:"unreserved,omitempty"`
	// Registered are the registrations, as LIO words them, Holder and Type the reservation; empty: none.
	Registered []string `json:"registered,omitempty"`
	Holder     string   `json:"holder,omitempty"`
	Type       string   `json:"type,omitempty"`
}

// Portal is an address of the array.
type Portal struct {
	Addr netip.AddrPort `json:"addr"`
	Open bool           `json:"open"`
}

// maxLine bounds an order or an answer, bytes.
const maxLine = 1 << 20

// Serve reads orders and writes what do answers to them, until the reader ends. A line that is no order is not
// answered: the writer may have begun in the middle of one.
func Serve(rw io.ReadWriter, do func(Order) (*Status, error)) error {
	lines := bufio.NewScanner(rw)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var o Order
		if json.Unmarshal(lines.Bytes(), &o) != nil || o.ID == 0 {
			continue
		}
		a := Answer{ID: o.ID}
		var err error
		if a.Status, err = do(o); err != nil {
			a.Error = err.Error()
		}
		data, err := json.Marshal(a)
		if err != nil {
			return err
		}
		if _, err := rw.Write(append(data, '\n')); err != nil {
			return fmt.Errorf("answer the lab: %w", err)
		}
	}
	return lines.Err()
}

// Control is the lab's end of a machine's port. One order at a time.
type Control struct {
	w    io.Writer
	r    *bufio.Reader
	last uint64
}

// NewControl speaks over the port of a machine that has just been switched on.
func NewControl(rw io.ReadWriter) *Control {
	return &Control{w: rw, r: bufio.NewReaderSize(rw, 64<<10)}
}

// Do gives an order and waits for its answer. The caller sets the port's deadline; after an error of the port the
// next order is in order again.
func (c *Control) Do(o Order) (*Status, error) {
	c.last++
	o.ID = c.last
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	// The newline first ends what was left of an order that was cut off.
	if _, err := c.w.Write(append([]byte{'\n'}, append(data, '\n')...)); err != nil {
		return nil, fmt.Errorf("order %s to the storage array: %w", o.Op, err)
	}
	for {
		line, err := c.line()
		if err != nil {
			return nil, fmt.Errorf("answer of the storage array to %s: %w", o.Op, err)
		}
		var a Answer
		switch {
		case json.Unmarshal(line, &a) != nil || a.ID != o.ID:
			// The rest of an answer that nobody waited for.
		case a.Error != "":
			return nil, fmt.Errorf("storage array: %s", a.Error)
		case a.Status == nil:
			return nil, errors.New("the storage array answered without its status")
		default:
			return a.Status, nil
		}
	}
}

// line reads up to the next newline; what is too long for an answer is passed over.
func (c *Control) line() ([]byte, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if len(line) < maxLine {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
