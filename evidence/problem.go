package evidence

import (
	"context"
	"errors"

	"github.com/trustgate/trustgate/upstream"
)

// NewProblem turns an error into a Problem.
func NewProblem(collector string, err error) Problem {
	return Problem{Collector: collector, Message: err.Error(), Temporary: Temporary(err)}
}

// Temporary says whether asking again may help, as opposed to an answer that is
// no: the time ran out, the error says so of itself through a method
// Temporary() bool, or the upstream was not there.
func Temporary(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	var says interface{ Temporary() bool }
	if errors.As(err, &says) {
		return says.Temporary()
	}
	return errors.Is(err, upstream.ErrUnavailable)
}
