package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	flushEvery = 2 * time.Second
	// maxCounted bounds the counts in memory; when it is reached they are
	// written early.
	maxCounted = 4096
)

// Pulls is how often one client pulled under one judgement.
type Pulls struct {
	Client string
	Count  int64
	First  time.Time
	Last   time.Time
}

type pullKey struct{ id, client string }

// pullCounter gathers counts, so that no pull waits for a write.
type pullCounter struct {
	ledger *Ledger

	mu     sync.Mutex
	counts map[pullKey]Pulls

	full chan struct{}
	stop chan struct{}
	done chan struct{}
}

func newPullCounter(l *Ledger) *pullCounter {
	c := &pullCounter{
		ledger: l, counts: map[pullKey]Pulls{},
		full: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go c.run()
	return c
}

// CountPull counts one pull under the judgement with the id. It does not wait.
func (l *Ledger) CountPull(id, client string, at time.Time) {
	c := l.pulls
	c.mu.Lock()
	defer c.mu.Unlock()
	key := pullKey{id, client}
	p, known := c.counts[key]
	if !known {
		p.First = at
		if len(c.counts) >= maxCounted {
			select {
			case c.full <- struct{}{}:
			default:
			}
			if len(c.counts) >= 4*maxCounted {
				key.client, p = "(others)", c.counts[pullKey{id, "(others)"}]
			}
		}
	}
	p.Count++
	p.Last = at
	c.counts[key] = p
}

func (c *pullCounter) run() {
	defer close(c.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.full:
		case <-c.stop:
			return
		}
		_ = c.flush() // what cannot be written now is tried again
	}
}

func (c *pullCounter) flush() error {
	c.mu.Lock()
	counts := c.counts
	c.counts = map[pullKey]Pulls{}
	c.mu.Unlock()
	if len(counts) == 0 {
		return nil
	}
	if err := c.write(counts); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for key, p := range counts {
			later, known := c.counts[key]
			if known {
				p.Count, p.Last = p.Count+later.Count, later.Last
			}
			c.counts[key] = p
		}
		return err
	}
	return nil
}

func (c *pullCounter) write(counts map[pullKey]Pulls) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	tx, err := c.ledger.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("counting pulls: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	for key, p := range counts {
		if _, err := tx.ExecContext(ctx, `INSERT INTO pulls (id, client, count, first, last) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (id, client) DO UPDATE SET count = count + excluded.count, last = max(last, excluded.last)`,
			key.id, key.client, p.Count, instant(p.First), instant(p.Last)); err != nil {
			return fmt.Errorf("counting pulls: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("counting pulls: %w", err)
	}
	return nil
}

func (c *pullCounter) close() error {
	close(c.stop)
	<-c.done
	return c.flush()
}

// pullsAtOnce is of how many judgements one query asks for the pulls.
const pullsAtOnce = 500

// PullsOf counts who pulled under the judgements, by their ids. The last few
// seconds may be missing.
func (l *Ledger) PullsOf(ctx context.Context, ids []string) (map[string][]Pulls, error) {
	found := map[string][]Pulls{}
	for part := range slices.Chunk(ids, pullsAtOnce) {
		if err := l.somePulls(ctx, part, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (l *Ledger) somePulls(ctx context.Context, ids []string, into map[string][]Pulls) error {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	// #nosec G202 -- placeholders alone
	rows, err := l.read.QueryContext(ctx, `SELECT id, client, count, first, last FROM pulls
		WHERE id IN (?`+strings.Repeat(", ?", len(ids)-1)+`) ORDER BY id, count DESC, client`, args...)
	if err != nil {
		return fmt.Errorf("reading the pulls: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var p Pulls
		var first, last int64
		if err := rows.Scan(&id, &p.Client, &p.Count, &first, &last); err != nil {
			return fmt.Errorf("reading the pulls: %w", err)
		}
		p.First, p.Last = moment(first), moment(last)
		into[id] = append(into[id], p)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the pulls: %w", err)
	}
	return nil
}

// Pulls lists who pulled under the judgement with the id, most first. The last
// few seconds may be missing.
func (l *Ledger) Pulls(ctx context.Context, id string) ([]Pulls, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT client, count, first, last FROM pulls WHERE id = ? ORDER BY count DESC, client LIMIT 1000`, id)
	if err != nil {
		return nil, fmt.Errorf("reading the pulls under %s: %w", id, err)
	}
	defer rows.Close()
	var list []Pulls
	for rows.Next() {
		var p Pulls
		var first, last int64
		if err := rows.Scan(&p.Client, &p.Count, &first, &last); err != nil {
			return nil, fmt.Errorf("reading the pulls under %s: %w", id, err)
		}
		p.First, p.Last = moment(first), moment(last)
		list = append(list, p)
	}
	return list, rows.Err()
}
