package multipath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/skein-os/skein/storage/reserve"
)

// SCSI checks paths by commands of their own: TEST UNIT READY, who is there, and how the target wants it used.
type SCSI struct{}

// Probe checks one path. It may hang for as long as the kernel does: opening waits while the path's errors are
// being handled. Begun is left to the caller.
func (SCSI) Probe(ctx context.Context, dev string) Probe {
	r := Probe{Dev: dev, Access: NoALUA}
	r.Err = func() error {
		node, err := nodeOf(dev)
		if err != nil {
			return err
		}
		d, err := reserve.Open(node)
		if err != nil {
			return err
		}
		defer d.Close() // after a command that hangs, Close waits too: it is one goroutine, the path's own
		ask := func(op reserve.Op) ([]byte, error) {
			for range 4 { // conditions are told once each
				a, err := d.Exec(ctx, reserve.Command{Op: op})
				if len(a.Attentions) > 0 {
					r.Attention = a.Attentions[0].String()
				}
				if !errors.Is(err, reserve.ErrAttention) {
					return a.Data, err
				}
				r.Attention = err.Error()
			}
			return nil, fmt.Errorf("%s: it has nothing to say but unit attentions, the last: %s", node, r.Attention)
		}
		if _, err := ask(reserve.TestUnitReady); err != nil && !errors.Is(err, reserve.ErrConflict) {
			return err // a reservation conflict is an answer
		}
		page, err := ask(reserve.ReadIdentity)
		if err != nil {
			return err
		}
		if r.Identity, err = ParseIdentity(page); err != nil {
			return fmt.Errorf("%s: read who it is: %w", node, err)
		}
		if r.Identity.ALUA {
			list, err := ask(reserve.ReadPortGroups)
			if err != nil && !errors.Is(err, reserve.ErrUnsupported) {
				return err
			}
			if err == nil {
				groups, err := ParsePortGroups(list)
				if err == nil {
					r.Access, err = r.Identity.access(groups)
				}
				if err != nil {
					return fmt.Errorf("%s: read how it may be used: %w", node, err)
				}
			}
		}
		text, err := os.ReadFile("/sys/dev/block/" + dev + "/size")
		if err != nil {
			return fmt.Errorf("%s: read its size: %w", node, err)
		}
		sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 54)
		if err != nil {
			return fmt.Errorf("%s: read its size: %w", node, err)
		}
		r.Size = sectors * SectorSize
		return nil
	}()
	return r
}
