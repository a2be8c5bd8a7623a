package cache

import "context"

// AwaitIdle waits until every fill has ended and what it brought is stored:
// readers have their bytes before that.
func (c *Cache) AwaitIdle(ctx context.Context) error { return c.awaitIdle(ctx) }
