package proxy

import (
	"errors"
	"os"
	"sync"
	"time"
)

// deadline is one of a connection's two. They are moved nine times a request,
// mostly while nobody waits or further away, and each move costs a timer. So the one
// that the connection below knows of stays where it is until somebody would wait too
// long, and who is woken by it looks whether it has been moved meanwhile.
type deadline struct {
	arm func(time.Time) error // of the connection below

	mu      sync.Mutex
	at      time.Time // zero is none
	armed   time.Time
	waiting int
}

// set moves the deadline, also for whoever waits.
func (d *deadline) set(at time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = at
	if d.waiting == 0 || !before(at, d.armed) {
		return nil
	}
	return d.rearm()
}

// begin comes before a call that may wait. Then again says whether it was woken too
// early and must be repeated.
func (d *deadline) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if before(d.at, d.armed) {
		if d.at.Before(begun) { // which is how net/http ends a read
			return os.ErrDeadlineExceeded
		}
		if err := d.rearm(); err != nil {
			return err
		}
	}
	d.waiting++
	return nil
}

var begun = time.Now()

func (d *deadline) again(err error) bool {
	d.end()
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return (d.at.IsZero() || time.Until(d.at) > 0) && d.rearm() == nil
}

// exact is begin for a call that cannot be repeated, after which comes end. What is
// moved further away meanwhile does not count.
func (d *deadline) exact() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at != d.armed {
		if err := d.rearm(); err != nil {
			return err
		}
	}
	d.waiting++
	return nil
}

func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
}

func (d *deadline) rearm() error {
	d.armed = d.at
	return d.arm(d.at)
}

func before(a, b time.Time) bool { return !a.IsZero() && (b.IsZero() || a.Before(b)) }
