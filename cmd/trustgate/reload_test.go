package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/cmd/trustgate/demo"
)

// TestReloadDropsNothing pulls without a pause while the configuration is read
// again and again.
func TestReloadDropsNothing(t *testing.T) {
	scene, err := demo.Set(t.Context(), "127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer scene.Close()
	load := func() (*config.Config, error) { return config.Load(scene.Config, nil) }
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	s, err := assemble(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	public, admin := listen(), listen()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, public, admin, load) }()
	url := "http://" + public.Addr().String() + "/v2/shop/manifests/1"
	pull := func() error {
		answer, err := http.Get(url)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s, %w", answer.Status, body, err)
		}
		return nil
	}
	if err := pull(); err != nil {
		t.Fatal(err)
	}

	var pullers sync.WaitGroup
	var pulled atomic.Int64
	pulling, enough := context.WithCancel(ctx)
	for range 4 {
		pullers.Go(func() {
			for pulling.Err() == nil {
				if err := pull(); err != nil {
					t.Errorf("a pull during a reload: %v", err)
					return
				}
				pulled.Add(1)
			}
		})
	}
	metric := func() string {
		answer, err := http.Get("http://" + admin.Addr().String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	const rounds = 3
	for i := range rounds {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`trustgate_config_reloads_total{result="done"} %d`, i+1)
		for deadline := time.Now().Add(time.Minute); !strings.Contains(metric(), want); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it was not reloaded for the %d. time", i+1)
			}
		}
	}
	enough()
	pullers.Wait()
	if pulled.Load() < rounds {
		t.Errorf("only %d pulls", pulled.Load())
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}
