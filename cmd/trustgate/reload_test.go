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
	"github.com/trustgate/trustgate/ledger"
)

// TestReloadDropsNothing pulls without a pause while the configuration is read
// again and again.
func TestReloadDropsNothing(t *testing.T) {
	p := serving(t, "")
	url := "http://" + p.public + "/v2/shop/manifests/1"
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
	pulling, enough := context.WithCancel(t.Context())
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
	const rounds = 3
	for i := range rounds {
		p.reload(i + 1)
	}
	enough()
	pullers.Wait()
	if pulled.Load() < rounds {
		t.Errorf("only %d pulls", pulled.Load())
	}
	p.end()
}

// TestExceptionsBesideABrokenFile: an exception that is removed counts no more, even
// where the file on disk cannot be read, and the file is still called broken.
func TestExceptionsBesideABrokenFile(t *testing.T) {
	p := serving(t, "")
	url, metrics := "http://"+p.public+"/v2/unsigned/manifests/1", "http://"+p.admin+"/metrics"
	excepted := ledger.Exception{
		ID: ledger.NewExceptionID(), Code: "signature.missing", Repository: "**", Owner: "ops", Reason: "a test",
		Expires: time.Now().AddDate(1, 0, 0), AddedAt: time.Now(),
	}
	if err := p.ledger.AddException(t.Context(), excepted); err != nil {
		t.Fatal(err)
	}
	p.hangup(`trustgate_exceptions{state="standing"} 1`)
	expect(t, url, http.StatusOK, "")

	whole, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.config, []byte("routes: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.ledger.RemoveException(t.Context(), excepted.ID, ledger.Removal{At: time.Now(), By: "ops"}); err != nil {
		t.Fatal(err)
	}
	p.hangup("trustgate_config_in_force 0")
	expect(t, url, http.StatusForbidden, "")
	expect(t, metrics, http.StatusOK, "trustgate_config_in_force 0")

	if err := os.WriteFile(p.config, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	p.hangup("trustgate_config_in_force 1")
	expect(t, url, http.StatusForbidden, "")
}

// program is a service that runs in this process, over the demonstration's scene.
type program struct {
	testing.TB
	public, admin string
	config        string
	ledger        *ledger.Ledger
	end           func()
}

// serving runs a service with more in its configuration.
func serving(t testing.TB, more string) *program {
	t.Helper()
	scene, err := demo.Set(t.Context(), "127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { scene.Close() })
	raw, err := os.ReadFile(scene.Config)
	if err == nil {
		err = os.WriteFile(scene.Config, append(raw, more...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
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
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, public, admin, load) }()
	p := &program{TB: t, public: public.Addr().String(), admin: admin.Addr().String(), config: scene.Config, ledger: s.ledger}
	p.end = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(p.end)
	return p
}

// reload has the configuration read again, for the nth time.
func (p *program) reload(n int) {
	p.Helper()
	p.hangup(fmt.Sprintf(`trustgate_config_reloads_total{result="done"} %d`, n))
}

// hangup has the configuration read again, until the metrics say what is wanted.
func (p *program) hangup(want string) {
	p.Helper()
	sent := false
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		answer, err := http.Get("http://" + p.admin + "/metrics")
		if err != nil {
			p.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			p.Fatal(err)
		}
		if strings.Contains(string(body), want) {
			return
		}
		if !sent { // it answers, so it also listens for signals by now, or soon
			sent = true
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				p.Fatal(err)
			}
		}
	}
	p.Fatalf("after SIGHUP, the metrics do not say %s", want)
}
