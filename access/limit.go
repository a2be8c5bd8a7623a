package access

import (
	"fmt"
	"math"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Rate bounds how often one client may ask, by its certificate or else by its
// address, of IPv6 the network of it. Headers that name another address count for
// nothing. The zero value does not bound.
type Rate struct {
	PerSecond float64
	Burst     int
}

// maxLimited is how many clients are told apart; whoever was forgotten begins
// with a full bucket.
const maxLimited = 65536

type limits struct {
	Rate
	clients *lru.Cache[string, *rate.Limiter]
}

func newLimits(r Rate) *limits {
	if r.PerSecond <= 0 {
		return nil
	}
	if r.Burst <= 0 {
		r.Burst = max(1, int(math.Ceil(r.PerSecond)))
	}
	clients, _ := lru.New[string, *rate.Limiter](maxLimited) // fails for no size alone
	return &limits{r, clients}
}

// take counts one request. The error is a *TooManyError.
func (l *limits) take(client string, now time.Time) error {
	bucket, ok := l.clients.Get(client)
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(l.PerSecond), l.Burst)
		if before, raced, _ := l.clients.PeekOrAdd(client, bucket); raced {
			bucket = before
		}
	}
	if bucket.AllowN(now, 1) {
		return nil
	}
	return &TooManyError{After: time.Duration((1 - bucket.TokensAt(now)) / l.PerSecond * float64(time.Second))}
}

// TooManyError says when a client that has asked too often may ask again.
type TooManyError struct{ After time.Duration }

// RetryAfter is the header that says so, in whole seconds.
func (e *TooManyError) RetryAfter() string { return strconv.Itoa(int(math.Ceil(e.After.Seconds()))) }

// Error implements error.
func (e *TooManyError) Error() string {
	return fmt.Sprintf("too many requests from this client; ask again in %s", e.After.Round(time.Millisecond))
}
