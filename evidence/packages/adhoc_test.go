package packages_test

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/evidence/packages"
	"github.com/trustgate/trustgate/evidence/packages/internal/rpmdb"
)

func TestAdhocMany(t *testing.T) {
	l := packages.Layer{Open: func(context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			tw := tar.NewWriter(w)
			for i := range 480000 {
				tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/node_modules/d%d/%s-%d.js", i/20, strings.Repeat("x", 12), i), Mode: 0o755, Size: 1})
				tw.Write([]byte("x"))
			}
			tw.Close()
			w.Close()
		}()
		return r, nil
	}}
	s := time.Now()
	r, err := packages.Examine(context.Background(), []packages.Layer{l}, 1, packages.Limits{Files: 600000})
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Println(r.Files, r.UnownedExecutables.Total, time.Since(s), "heapsys", m.HeapSys>>20)
	hwm()
}

func hwm() {
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmHWM") {
			fmt.Println(l)
		}
	}
}

func TestAdhocSQLite(t *testing.T) {
	db := []byte(database(t, "rpmdb.sqlite"))
	name := filepath.Join(t.TempDir(), "db")
	ok, bad := 0, 0
	end := time.Now().Add(100 * time.Second)
	for time.Now().Before(end) {
		b := append([]byte(nil), db...)
		for range 1 + rand.IntN(40) {
			at := rand.IntN(len(b))
			if rand.IntN(3) == 0 {
				at = rand.IntN(4096)
			}
			if rand.IntN(2) == 0 {
				at = at/4096*4096 + rand.IntN(64)
			}
			if at < 16 { continue }
			b[at] = byte(rand.Uint32())
		}
		os.WriteFile(name, b, 0o600)
		if err := rpmdb.Read(context.Background(), name, func(*rpmdb.Header) error { return nil }); err != nil {
			bad++
		} else {
			ok++
		}
	}
	fmt.Println("ok", ok, "refused", bad)
	hwm()
}
