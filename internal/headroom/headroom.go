// Package headroom keeps a small heap from being collected all the time.
//
// Go collects when the heap has doubled. A gate's is a few megabytes, mostly a
// policy, so that under load a collection ran a fifth of the time, and a decision
// that met one took four times as long.
//
// It must never make a heap that is large larger.
package headroom

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// least is the size in bytes up to which the heap always grows before it is
// collected.
const least = 36 << 20

var once sync.Once

// Keep sees to it for the rest of the program, unless GOGC is set in its
// environment, which is then obeyed.
func Keep() {
	once.Do(func() {
		if os.Getenv("GOGC") == "" {
			follow(usual)
		}
	})
}

const usual = 100 // percent

// follow adapts the collector after each collection to what that has left.
func follow(percent int) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if bytes := live[0].Value.Uint64(); bytes > 0 {
		// A change stops the program for a moment, so it must be worth it.
		if next := max(usual, int(least*100/bytes)-100); next*10 < percent*9 || next*9 > percent*10 {
			debug.SetGCPercent(next)
			percent = next
		}
	}
	type nothing struct{ _ *byte } // with a pointer, so that it is not put together with others
	runtime.AddCleanup(&nothing{}, follow, percent)
}
