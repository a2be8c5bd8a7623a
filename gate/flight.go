package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// errCycle reports an image that is, by its own account, its own ancestor.
var errCycle = errors.New("the chain of parents leads back to itself")

// ErrClosed reports a judgement that did not begin, since the gate is ending.
var ErrClosed = errors.New("the gate is shutting down")

// ErrBusy reports a judgement that did not begin, since too many are under way.
var ErrBusy = errors.New("too many images are being judged")

// flights lets one judgement run per key, however many pulls and children
// wait for it. Judgements wait for one another, parents before children, so
// plain single flight would deadlock on two images that each claim the other
// as their base. The graph of who waits for whom is kept, and a wait that
// would close a circle is refused.
type flights struct {
	mu      sync.Mutex
	current map[string]*flight
	closed  bool
}

func (f *flights) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// begin lets work start that Close waits for; whoever starts it calls work.Done.
func (g *Gate) begin() bool {
	g.flights.mu.Lock()
	defer g.flights.mu.Unlock()
	if g.flights.closed {
		return false
	}
	g.work.Add(1)
	return true
}

type flight struct {
	key      string
	depth    int
	nested   bool // on behalf of another
	done     chan struct{}
	waitsFor map[*flight]int

	admission *Admission
	err       error
}

func (f *flights) init() { f.current = map[string]*flight{} }

type flightKey struct{}

// fly returns what fn returns, sharing a run that is already under way. fn runs
// in its own goroutine under work, with a context that outlives the caller's:
// a client that hangs up does not cost the others their verdict.
func (g *Gate) fly(ctx context.Context, key string, depth int, fn func(context.Context) (*Admission, error)) (*Admission, error) {
	caller, _ := ctx.Value(flightKey{}).(*flight)
	f := &g.flights

	f.mu.Lock()
	target, running := f.current[key]
	if !running {
		if f.closed {
			f.mu.Unlock()
			return nil, ErrClosed
		}
		target = &flight{key: key, depth: depth, nested: caller != nil, done: make(chan struct{}), waitsFor: map[*flight]int{}}
		f.current[key] = target
	}
	if caller != nil {
		if caller == target || target.reaches(caller, map[*flight]bool{}) {
			f.mu.Unlock()
			return nil, errCycle
		}
		caller.waitsFor[target]++
	}
	if !running {
		g.work.Go(func() { g.run(ctx, target, fn) })
	}
	f.mu.Unlock()

	if caller != nil {
		defer func() {
			f.mu.Lock()
			if caller.waitsFor[target]--; caller.waitsFor[target] == 0 {
				delete(caller.waitsFor, target)
			}
			f.mu.Unlock()
		}()
	}
	select {
	case <-target.done:
		if target.admission != nil && target.admission.truncated && depth < target.depth {
			// It was cut off for being deep in somebody else's tree.
			return g.fly(ctx, key, depth, fn)
		}
		return target.admission, target.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (g *Gate) run(ctx context.Context, target *flight, fn func(context.Context) (*Admission, error)) {
	// Nested judgements share the deadline of the pull that started them;
	// a pull of its own gets a new one.
	running := context.WithValue(context.WithoutCancel(ctx), flightKey{}, target)
	deadline := time.Now().Add(g.Lifetimes.Deadline)
	if outer, ok := ctx.Value(flightKey{}).(*flight); ok && outer != nil {
		if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
			deadline = d
		}
	}
	running, cancel := context.WithDeadline(running, deadline)
	defer cancel()
	defer context.AfterFunc(g.background, cancel)()
	defer func() {
		if p := recover(); p != nil {
			target.admission, target.err = nil, fmt.Errorf("the judgement failed: %v", p)
			g.Log.Error("judgement panicked", panicFields(p)...)
		}
		g.flights.mu.Lock()
		delete(g.flights.current, target.key)
		g.flights.mu.Unlock()
		close(target.done)
	}()
	target.admission, target.err = fn(running)
}

// turn waits until one more judgement may gather evidence, and says how it ends.
// Parents are part of the judgement that asked for them.
func (g *Gate) turn(ctx context.Context) (done func(), err error) {
	if f, ok := ctx.Value(flightKey{}).(*flight); g.judging == nil || (ok && f.nested) {
		return func() {}, nil
	}
	done = func() { <-g.judging }
	select {
	case g.judging <- struct{}{}:
		return done, nil // however short the wait may be
	default:
	}
	patience := time.NewTimer(g.Lifetimes.Turn)
	defer patience.Stop()
	select {
	case g.judging <- struct{}{}:
		return done, nil
	case <-patience.C:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// reaches says whether f waits, directly or not, for other. The caller holds
// the lock.
func (f *flight) reaches(other *flight, seen map[*flight]bool) bool {
	if seen[f] {
		return false
	}
	seen[f] = true
	for next := range f.waitsFor {
		if next == other || next.reaches(other, seen) {
			return true
		}
	}
	return false
}
