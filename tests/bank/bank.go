// Package bank is a client of a database that remembers what was acknowledged to it.
//
// It moves money between accounts and writes an entry for each move, in one transaction. A transaction counts
// as acknowledged when its COMMIT was answered; one whose answer never came may be in the database or not. In
// the end nothing acknowledged may be missing, and each balance must be what the entries make of it.
package bank

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	accounts = 50
	start    = 1000 // of each account

	// dialTimeout, loginTimeout and workTimeout are how long one attempt may take: a connection whose server has died answers
	// nothing, for ever.
	dialTimeout  = 700 * time.Millisecond
	loginTimeout = 4 * time.Second
	workTimeout  = time.Second
	retry        = 50 * time.Millisecond
)

// Config of a Bank.
type Config struct {
	Host     string // address of the database, by which it is asked through Dial
	Password string // of the user postgres
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	Workers  int // sessions at a time
}

// Bank is one run of the client.
type Bank struct {
	cfg Config

	mu      sync.Mutex
	acked   []map[int64]bool // by worker
	unknown int
	last    time.Time // of the newest acknowledgement
	gaps    []Gap
}

// Gap is a time without an acknowledgement, from one to the next.
type Gap struct {
	From time.Time
	Long time.Duration
}

// New makes a client; nothing is sent yet.
func New(cfg Config) *Bank {
	b := &Bank{cfg: cfg, acked: make([]map[int64]bool, cfg.Workers)}
	for i := range b.acked {
		b.acked[i] = map[int64]bool{}
	}
	return b
}

func (b *Bank) connect(ctx context.Context, timeout time.Duration) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cfg, err := pgx.ParseConfig(fmt.Sprintf("postgres://postgres@%s:5432/postgres?sslmode=disable", b.cfg.Host))
	if err != nil {
		return nil, err
	}
	cfg.Password = b.cfg.Password
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return b.cfg.Dial(ctx, network, addr)
	}
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return pgx.ConnectConfig(ctx, cfg)
}

// Open waits until the database answers and makes the tables.
func (b *Bank) Open(ctx context.Context) error {
	for {
		conn, err := b.connect(ctx, 10*time.Second)
		if err == nil {
			_, err = conn.Exec(ctx, fmt.Sprintf(`
				CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, balance bigint NOT NULL);
				CREATE TABLE IF NOT EXISTS entries (worker int, n bigint, source int NOT NULL, target int NOT NULL,
					amount bigint NOT NULL, PRIMARY KEY (worker, n));
				INSERT INTO accounts SELECT i, %d FROM generate_series(1, %d) i ON CONFLICT DO NOTHING`, start, accounts))
			return errors.Join(err, conn.Close(ctx))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the database at %s does not answer: %w", b.cfg.Host, err)
		case <-time.After(time.Second):
		}
	}
}

// Run works until ctx ends. What goes wrong on the way is tried again.
func (b *Bank) Run(ctx context.Context) {
	b.mu.Lock()
	b.last = time.Now()
	b.mu.Unlock()
	var wg sync.WaitGroup
	for w := range b.cfg.Workers {
		wg.Go(func() { b.work(ctx, w) })
	}
	wg.Wait()
}

func (b *Bank) work(ctx context.Context, worker int) {
	var conn *pgx.Conn
	for n := int64(1); ctx.Err() == nil; n++ {
		if conn == nil {
			var err error
			if conn, err = b.connect(ctx, loginTimeout); err != nil {
				conn = nil
				select {
				case <-ctx.Done():
				case <-time.After(retry):
				}
				continue
			}
		}
		if err := move(ctx, conn, worker, n); err != nil {
			b.mu.Lock()
			b.unknown++
			b.mu.Unlock()
			closing, cancel := context.WithTimeout(context.Background(), retry)
			_ = conn.Close(closing) // whatever it was, a new one is made
			cancel()
			conn = nil
			continue
		}
		b.acknowledged(worker, n)
	}
	if conn != nil {
		closing, cancel := context.WithTimeout(context.Background(), dialTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}
}

func move(ctx context.Context, conn *pgx.Conn, worker int, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	source, target, amount := 1+rand.IntN(accounts), 1+rand.IntN(accounts), rand.Int64N(100)
	first, second := min(source, target), max(source, target) // in one order, or two sessions wait for each other
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // of no effect after a commit
	var batch pgx.Batch
	batch.Queue("INSERT INTO entries VALUES ($1, $2, $3, $4, $5)", worker, n, source, target, amount)
	for _, id := range []int{first, second} {
		delta := -amount
		if id == target {
			delta = amount
		}
		if source == target {
			delta = 0
		}
		batch.Queue("UPDATE accounts SET balance = balance + $1 WHERE id = $2", delta, id)
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func (b *Bank) acknowledged(worker int, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked[worker][n] = true
	now := time.Now()
	if long := now.Sub(b.last); long >= 200*time.Millisecond {
		b.gaps = append(b.gaps, Gap{b.last, long})
	}
	b.last = now
}

// LongestGap is the longest time without an acknowledgement that began or went on after from, up to now.
func (b *Bank) LongestGap(from time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest := time.Since(b.last)
	for _, g := range b.gaps {
		if g.From.Add(g.Long).After(from) {
			longest = max(longest, g.Long)
		}
	}
	return longest
}

// Acknowledged tells when the newest acknowledgement came, and how many there were.
func (b *Bank) Acknowledged() (last time.Time, count int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.acked {
		count += len(a)
	}
	return b.last, count
}

// Audit is what the database holds against what was acknowledged.
type Audit struct {
	Acknowledged int      `json:"acknowledged"`
	Unknown      int      `json:"unknown"` // without an answer
	Entries      int      `json:"entries"` // in the database
	Missing      []string `json:"missing"` // acknowledged and not there
	Wrong        []string `json:"wrong"`   // accounts whose balance is not what the entries make of it
	Checksums    int      `json:"checksum_failures"`
}

// Sound tells whether nothing is missing or wrong.
func (a *Audit) Sound() bool { return len(a.Missing) == 0 && len(a.Wrong) == 0 && a.Checksums == 0 }

// Audit reads the whole database. No Run may go on.
func (b *Bank) Audit(ctx context.Context) (*Audit, error) {
	conn, err := b.connect(ctx, 30*time.Second)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	a := &Audit{Unknown: b.unknown}
	there := map[[2]int64]bool{}
	rows, err := conn.Query(ctx, "SELECT worker, n FROM entries")
	if err != nil {
		return nil, err
	}
	var worker, n int64
	if _, err := pgx.ForEachRow(rows, []any{&worker, &n}, func() error {
		there[[2]int64{worker, n}] = true
		return nil
	}); err != nil {
		return nil, err
	}
	a.Entries = len(there)
	for w, acked := range b.acked {
		a.Acknowledged += len(acked)
		for n := range acked {
			if !there[[2]int64{int64(w), n}] {
				a.Missing = append(a.Missing, fmt.Sprintf("transaction %d of session %d", n, w))
			}
		}
	}
	rows, err = conn.Query(ctx, `
		SELECT id, balance, $1 + coalesce((SELECT sum(amount) FROM entries WHERE target = id), 0)
			- coalesce((SELECT sum(amount) FROM entries WHERE source = id), 0) FROM accounts`, start)
	if err != nil {
		return nil, err
	}
	var id, have, want int64
	if _, err := pgx.ForEachRow(rows, []any{&id, &have, &want}, func() error {
		if have != want {
			a.Wrong = append(a.Wrong, fmt.Sprintf("account %d has %d, its entries make %d", id, have, want))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return a, conn.QueryRow(ctx, "SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database").Scan(&a.Checksums)
}
