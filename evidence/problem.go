package evidence

import (
	"context"
	"errors"

	"github.com/trustgate/trustgate/upstream"
)

// NewProblem turns an error into a Problem. It is temporary when the error says
// so of itself, through a method Temporary() bool somewhere in its chain, or
// when the upstream was not there or the time ran out.
func NewProblem(collector string, err error) Problem {
	return Problem{Collector: collector, Message: err.Error(), Temporary: temporary(err)}
}

func temporary(err error) bool {
	if errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	var says interface{ Temporary() bool }
	return errors.As(err, &says) && says.Temporary()
}
