//go:build race

package gate_test

// The race detector sees in a tenth of the images what it sees in all, and takes ten
// times as long for each.
func init() { reloaded, reloaders = 20, 16 }
