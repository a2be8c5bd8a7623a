package proxy

import (
	"errors"
	"os"
	"sync"
	"time"
)

// deadline is one of a connection's two. net/http moves them nine times a
// request, nearly always further away, and each move costs a timer. So the one
// that the connection below knows of stays where it is, and who is woken by it looks
// whether it has been moved meanwhile.
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
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	return (d.at.IsZero() || time.Until(d.at) > 0) && d.rearm() == nil
}

// exact is begin for a call that cannot be repeated.
func (d *deadline) exact() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at == d.armed {
		return nil
	}
	return d.rearm()
}

func (d *deadline) rearm() error {
	d.armed = d.at
	return d.arm(d.at)
}

func before(a, b time.Time) bool { return !a.IsZero() && (b.IsZero() || a.Before(b)) }
