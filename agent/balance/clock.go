package balance

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is CLOCK_BOOTTIME, the clock that leases are counted on: it rises for the life of the boot, goes on
// in a suspend and cannot be set.
func Now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // cannot fail: the clock exists and t is ours
	return time.Duration(t.Nano())
}

func wallClock() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &t)
	return time.Duration(t.Nano())
}

// wallOffset is what to add to a boot time to have wall-clock time, which is the only absolute time that
// nftables can compare with. It is never too large, however long we are stopped between the two
// readings: the second reading of the boot clock can only be later than the wall clock's.
func wallOffset() time.Duration {
	for tries := 0; ; tries++ {
		before := Now()
		wall := wallClock()
		after := Now()
		if after-before < time.Millisecond || tries == 3 {
			return wall - after
		}
	}
}
