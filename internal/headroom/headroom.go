// Package headroom keeps a small heap from being collected all the time.
//
// Go collects when the heap has doubled. A gate's is a few megabytes, mostly a
// policy, so that under load a collection ran a fifth of the time, and a decision
// that met one took four times as long.
//
// It must never grow with what the program holds: a large heap has its headroom.
package headroom

import "sync"

// bytes is the memory that a process may then take more than before.
const bytes = 8 << 20

var hold = sync.OnceValue(func() []byte { return make([]byte, bytes) })

// Hold makes the collector count more as in use than is. The memory is never
// touched, so that it is none of the process's until garbage fills as much.
// It is for the start of a program: later it might be given memory that was used.
func Hold() { hold() }
