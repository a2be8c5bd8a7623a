package policy_test

import (
	"testing"

	"github.com/trustgate/trustgate/policy"
)

// BenchmarkLoad is what a start, a reload and every command line wait for.
func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := policy.Load(b.Context(), policy.Options{Builtin: true, Collections: []string{"trusted-builds"}}); err != nil {
			b.Fatal(err)
		}
	}
}
