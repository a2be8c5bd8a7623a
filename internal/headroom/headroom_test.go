package headroom

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

var rubbish, large []byte

// A small heap is left alone until it has grown, and a large one as it always is.
func TestKeep(t *testing.T) {
	t.Setenv("GOGC", "")
	Keep()
	settle := func(good func(percent int) bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			runtime.GC()
			percent := debug.SetGCPercent(usual)
			debug.SetGCPercent(percent)
			if good(percent) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the heap grows by %d percent", percent)
			}
		}
	}
	collections := func() uint32 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 * least / 1024 {
			rubbish = make([]byte, 1024)
		}
		runtime.ReadMemStats(&after)
		return after.NumGC - before.NumGC
	}
	settle(func(percent int) bool { return percent > 2*usual })
	if n := collections(); n > 30 {
		t.Errorf("%d collections of 20 times as much as is to be had before one", n)
	}
	large = make([]byte, 2*least)
	settle(func(percent int) bool { return percent == usual })
	large = nil
	settle(func(percent int) bool { return percent > 2*usual })
}
