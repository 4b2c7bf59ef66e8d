package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func testConsole(t *testing.T) (c *console, alarms *[]string, file string) {
	t.Helper()
	alarms = new([]string)
	file = filepath.Join(t.TempDir(), "console.log")
	c, err := newConsole(file, func(s string) { *alarms = append(*alarms, s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close() })
	return c, alarms, file
}

func TestConsoleRecordsCleanLines(t *testing.T) {
	c, _, file := testConsole(t)
	c.record(strings.NewReader("one\r\n\x1b[31mred\x1b[0m \x1b]0;title\x07end\ncut off"), nil)
	var got []string
	for _, l := range c.tail(10) {
		got = append(got, l.Text)
	}
	if want := "one|red end|cut off"; strings.Join(got, "|") != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	data, err := os.ReadFile(file)
	if err != nil || strings.Count(string(data), "\n") != 3 || strings.ContainsRune(string(data), '\x1b') {
		t.Fatalf("recorded %q, %v, want three clean lines", data, err)
	}
}

func TestConsoleAlarms(t *testing.T) {
	for text, want := range map[string]bool{
		"[    1.0] Kernel panic - not syncing: sysrq triggered crash":       true,
		"[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!":       true,
		"[    1.0] Oops: 0000 [#1] PREEMPT SMP NOPTI":                       true,
		"[    1.0] BUG: kernel NULL pointer dereference, address: 00000000": true,
		"Oopsie, the service said":                                          false,
		"debug: nothing":                                                    false,
	} {
		c, alarms, _ := testConsole(t)
		c.record(strings.NewReader(text+"\n"), nil)
		if got := len(*alarms) == 1; got != want {
			t.Errorf("%q: got alarm %v, want %v", text, got, want)
		}
	}
}

func TestConsoleWaitSeesOnlyTheCurrentBoot(t *testing.T) {
	c, _, _ := testConsole(t)
	re := regexp.MustCompile("ready")
	c.write([]byte("ready\n"))
	c.newBoot()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.wait(ctx, re); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout: the line is of the boot before", err)
	}
	go c.write([]byte("login: ready")) // without an end of line
	if l, err := c.wait(t.Context(), re); err != nil || l.Text != "login: ready" {
		t.Fatalf("got %q, %v", l.Text, err)
	}
}

func TestConsoleForgetsOldLinesButKeepsCount(t *testing.T) {
	c, _, _ := testConsole(t)
	for range keepLines + 1 {
		c.write([]byte("x\n"))
	}
	c.newBoot()
	c.write([]byte("last\n"))
	if l, err := c.wait(t.Context(), regexp.MustCompile(".")); err != nil || l.Text != "last" {
		t.Fatalf("got %q, %v, want last", l.Text, err)
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("a\x1b[2Jb\n\x1b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, r := range clean(data) {
			if r < ' ' && r != '\t' && r != '\n' || r == 0x7f {
				t.Fatalf("%q: control character %q is left", data, r)
			}
		}
	})
}
