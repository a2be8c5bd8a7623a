package cache_test

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/cache"
)

// BenchmarkWarmPull is what a pull that is answered from memory costs the cache.
func BenchmarkWarmPull(b *testing.B) {
	s := newShop(b, "filesystem")
	c := s.open(cache.Options{})
	d := digest.FromString("manifest")
	b.ReportAllocs()
	for b.Loop() {
		c.Removals()
		c.Used(d)
	}
}
