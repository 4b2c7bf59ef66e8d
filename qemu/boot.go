package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync"
	"time"
)

// Boot powers on count machines at once and returns how long after that each of them printed a line
// that matches until, which is when the bench compares with an empty init. cfg.Nodes and cfg.Dir are
// chosen here. The machines are gone when it returns.
func Boot(ctx context.Context, cfg Config, count int, until *regexp.Regexp) ([]time.Duration, error) {
	dir, err := os.MkdirTemp("", "skein-boot-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cfg.Dir, cfg.Nodes = dir, nil
	for i := range count {
		cfg.Nodes = append(cfg.Nodes, Node{Name: fmt.Sprintf("n%d", i+1), Number: i + 1})
	}
	begin := time.Now()
	l, err := Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	took, errs := make([]time.Duration, count), make([]error, count)
	var wg sync.WaitGroup
	for i, n := range cfg.Nodes {
		wg.Go(func() {
			var line ConsoleLine
			if line, errs[i] = l.WaitConsole(ctx, n.Name, until); errs[i] == nil {
				took[i] = line.At.Sub(begin)
			}
		})
	}
	wg.Wait()
	return took, errors.Join(errs...)
}
