package packages_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/evidence/packages"
)

func TestAdhoc(t *testing.T) {
	var layers []packages.Layer
	for _, p := range strings.Split(os.Getenv("ADHOC"), ",") {
		layers = append(layers, packages.Layer{Digest: "sha256:" + "00", Open: func(context.Context) (io.ReadCloser, error) { return os.Open(p) }})
	}
	parents := len(layers) - 1
	start := time.Now()
	r, err := packages.Examine(context.Background(), layers, parents, packages.Limits{})
	d := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Println("took", d, "files", r.Files, "bytes", r.Bytes, "totalalloc", m.TotalAlloc>>20, "sys", m.Sys>>20)
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmHWM") {
			fmt.Println(l)
		}
	}
	if len(r.Packages) > 2 {
		r.Packages = append(r.Packages[:2:2], r.Packages[len(r.Packages)-1])
	}
	j, _ := json.MarshalIndent(r, "", " ")
	fmt.Println(string(j))
}
