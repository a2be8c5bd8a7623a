package proxy_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
)

// Faults of the upstream and of the way to it, one by one, between a whole gate
// and a real registry. Under each of them three images are pulled by a client
// that believes nothing: one that the gate has never seen, one of which it has
// only the manifest, and one that it has whole and whose verdict has expired.
// Then the fault goes away, and all three must be pulled whole from the same
// gate, without anybody's doing.
//
// The disk, the ledger, damage at rest and kill -9 are in e2e, with the real
// program; patience with registries, second by second, in upstream.
var faults = []fault{
	{
		name: "latency",
		begin: func(s *scene) {
			s.between(everything, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				time.Sleep(20 * time.Millisecond)
				next.ServeHTTP(w, r)
			})
		},
		unknown: seen{http.StatusOK, ""}, layer: seen{http.StatusOK, ""}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "connections are reset in the middle of a body",
		begin:   func(s *scene) { s.between(everything, broken(true)) },
		unknown: seen{http.StatusServiceUnavailable, "connection"}, layer: seen{cutShort, ""}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "bodies are truncated",
		begin:   func(s *scene) { s.between(everything, broken(false)) },
		unknown: seen{http.StatusServiceUnavailable, "the connection broke in the middle of the answer"}, layer: seen{cutShort, ""}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "bodies are truncated and look whole",
		begin:   func(s *scene) { s.between(everything, shortened) },
		unknown: seen{http.StatusBadGateway, "broken or lies"}, layer: seen{http.StatusForbidden, "could not gather all evidence"},
		known: seen{http.StatusForbidden, "could not gather all evidence"}, // a registry that lies is no registry that is away
	},
	{
		name:    "bodies drip",
		begin:   func(s *scene) { s.between(everything, dripping) },
		unknown: seen{http.StatusServiceUnavailable, "no answer in time"}, layer: seen{givenUp, ""}, known: seen{http.StatusOK, ""},
		heal: func(s *scene) { s.wire.reset() }, // or the fill waits for its own timeout
	},
	{
		name: "nothing is answered",
		begin: func(s *scene) {
			s.between(everything, func(_ http.Handler, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		},
		unknown: seen{http.StatusServiceUnavailable, "no answer in time"}, layer: seen{givenUp, ""}, known: seen{http.StatusOK, ""},
		heal: func(s *scene) { s.wire.reset() }, // or the fill waits for its own timeout
	},
	{
		name: "429 with a short Retry-After",
		begin: func(s *scene) {
			var asked atomic.Int64
			s.between(everything, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) == 1 {
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		unknown: seen{http.StatusOK, ""}, layer: seen{http.StatusOK, ""}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "429 with a long Retry-After",
		begin:   func(s *scene) { s.between(everything, says(http.StatusTooManyRequests, "600")) },
		unknown: seen{http.StatusServiceUnavailable, "wait (Retry-After: 600)"}, layer: seen{http.StatusServiceUnavailable, "wait (Retry-After: 600)"}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "a storm of 500",
		begin:   func(s *scene) { s.between(everything, says(http.StatusInternalServerError, "0")) },
		unknown: seen{http.StatusServiceUnavailable, "500 Internal Server Error; try again later"}, layer: seen{http.StatusServiceUnavailable, "500"}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "a storm of 503",
		begin:   func(s *scene) { s.between(everything, says(http.StatusServiceUnavailable, "0")) },
		unknown: seen{http.StatusServiceUnavailable, "503 Service Unavailable; try again later"}, layer: seen{http.StatusServiceUnavailable, "503"}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "no answer about evidence",
		begin:   func(s *scene) { s.between(evidence, says(http.StatusBadGateway, "0")) },
		unknown: seen{http.StatusForbidden, "could not gather all evidence"}, layer: seen{http.StatusOK, ""}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "the token server answers 503",
		begin:   func(s *scene) { s.between(everything, guarded(says(http.StatusServiceUnavailable, "0"))) },
		unknown: seen{http.StatusServiceUnavailable, "token server"}, layer: seen{http.StatusServiceUnavailable, "token server"}, known: seen{http.StatusOK, ""},
	},
	{
		name: "the token server hangs up",
		begin: func(s *scene) {
			s.between(everything, guarded(func(http.Handler, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		},
		unknown: seen{http.StatusServiceUnavailable, "connection"}, layer: seen{http.StatusServiceUnavailable, "connection"}, known: seen{http.StatusOK, ""},
	},
	{
		name: "the name does not resolve",
		begin: func(s *scene) {
			resolves(s.host(), dnsmessage.RCodeNameError)
			s.wire.reset()
		},
		unknown: seen{http.StatusServiceUnavailable, "does not resolve"}, layer: seen{http.StatusServiceUnavailable, "does not resolve"}, known: seen{http.StatusOK, ""},
	},
	{
		name: "the name service fails",
		begin: func(s *scene) {
			resolves(s.host(), dnsmessage.RCodeServerFailure)
			s.wire.reset()
		},
		unknown: seen{http.StatusServiceUnavailable, "server misbehaving"}, layer: seen{http.StatusServiceUnavailable, "server misbehaving"}, known: seen{http.StatusOK, ""},
	},
	{
		name:    "connections are refused",
		begin:   func(s *scene) { s.wire.unplug() },
		heal:    func(s *scene) { s.wire.plug() },
		unknown: seen{http.StatusServiceUnavailable, "check that the registry runs"}, layer: seen{http.StatusServiceUnavailable, "check that the registry runs"}, known: seen{http.StatusOK, ""},
	},
}

type fault struct {
	name    string
	begin   func(*scene)
	heal    func(*scene) // beside the front and the name, which always heal
	unknown seen         // the manifest of an image that was never pulled
	layer   seen         // a layer of one whose manifest was pulled
	known   seen         // all of one that was pulled, after its verdict has expired
}

// seen is what a client is told. A refusal is an error document in one line with
// this in it.
type seen struct {
	status  int
	message string
}

const (
	cutShort = -1 // the answer began with 200 and did not end, or 503
	givenUp  = -2 // the client lost its patience before the gate did
)

func TestFaults(t *testing.T) {
	t.Parallel()
	var patient, impatient []fault
	for _, f := range faults {
		if f.layer.status == givenUp {
			impatient = append(impatient, f) // such a fault uses up the gate's deadline
		} else {
			patient = append(patient, f)
		}
	}
	// One gate lives through all of them, one after the other.
	for deadline, list := range map[time.Duration][]fault{15 * time.Second: patient, 6 * time.Second: impatient} {
		t.Run("with a deadline of "+deadline.String(), func(t *testing.T) {
			t.Parallel()
			s := raise(t, deadline, list)
			for _, f := range list {
				t.Run(f.name, func(t *testing.T) { f.test(s.in(t, f)) })
			}
		})
	}
}

func (f fault) test(s *scene) {
	s.expect("before, the manifest", s.pulled("begun"), seen{http.StatusOK, ""})
	s.expect("before", s.whole("known"), seen{http.StatusOK, ""})
	s.stage.Pass(time.Hour) // tags and verdicts are past their terms

	patience := 20 * time.Second
	if f.layer.status == givenUp {
		patience = time.Second
	}
	f.begin(s)
	s.expect("an image that was never pulled", s.pulled("unknown"), f.unknown)
	s.expect("a layer", s.layer("begun", patience), f.layer)
	s.expect("an image that was pulled before", s.whole("known"), f.known)

	s.stage.Upstream.Interpose(nil)
	resolves(s.host(), dnsmessage.RCodeSuccess)
	if f.heal != nil {
		f.heal(s)
	}
	s.stage.Pass(time.Minute) // blocks are looked at again
	for _, name := range three {
		got := s.whole(name)
		for tries := 0; got.status != http.StatusOK && f.layer.status == givenUp && tries < 5; tries++ {
			// A short deadline on a busy machine is a fault of its own, which
			// clients get over in the same way: they ask again.
			s.stage.Pass(time.Minute)
			got = s.whole(name)
		}
		s.expect("afterwards, "+name, got, seen{http.StatusOK, ""})
	}
}

// scene is a gate whose registry lies behind a wire.
type scene struct {
	testing.TB
	stage  *stage.Stage
	door   *front
	wire   *wire
	images map[string]*shipyard.Image // by the fault and one of three
	fault  string
}

// three are the images that are pulled under each fault.
var three = []string{"unknown", "begun", "known"}

func raise(t *testing.T, deadline time.Duration, list []fault) *scene {
	t.Helper()
	s := &scene{TB: t, stage: stage.New(t), images: map[string]*shipyard.Image{}}
	s.wire = lay(s.stage)
	for i, f := range list {
		for k, name := range three {
			s.images[f.name+" "+name], _ = carrying(s.stage, "faults/"+strconv.Itoa(i)+"/"+name, noise(100<<10, byte(100+3*i+k)))
		}
	}
	s.door = serve(s.stage, "HTTP/1.1", handlerFor(s.stage, s.stage.Gate(stage.Options{Through: s.wire.name, Deadline: deadline})))
	return s
}

// in is the scene for the subtest of a fault.
func (s *scene) in(t *testing.T, f fault) *scene {
	inner := *s
	inner.TB, inner.fault = t, f.name
	return &inner
}

func (s *scene) image(name string) *shipyard.Image { return s.images[s.fault+" "+name] }

func (s *scene) host() string {
	host, _, _ := strings.Cut(s.wire.name, ":")
	return host
}

// everything and evidence say which requests of the gate meet a fault.
func everything(*http.Request) bool { return true }

func evidence(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/referrers/") || strings.Contains(r.URL.Path, "/manifests/sha256-")
}

type interference func(registry http.Handler, w http.ResponseWriter, r *http.Request)

// between puts a fault in front of the registry.
func (s *scene) between(which func(*http.Request) bool, fault interference) {
	s.stage.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !which(r) {
				registry.ServeHTTP(w, r)
				return
			}
			fault(registry, w, r)
		})
	})
}

// answered is what the registry says, with half of its body.
func answered(registry http.Handler, w http.ResponseWriter, r *http.Request) (whole, half []byte) {
	recorded := httptest.NewRecorder()
	registry.ServeHTTP(recorded, r)
	for key, values := range recorded.Header() {
		w.Header()[key] = values
	}
	whole = recorded.Body.Bytes()
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
	}
	w.WriteHeader(recorded.Code)
	return whole, whole[:len(whole)/2]
}

// broken ends every connection in the middle of its body, by RST or by FIN.
func broken(rst bool) interference {
	return func(registry http.Handler, w http.ResponseWriter, r *http.Request) {
		whole, half := answered(registry, w, r)
		if r.Method == http.MethodHead || len(whole) == 0 {
			return
		}
		control := http.NewResponseController(w)
		_, _ = w.Write(half)
		_ = control.Flush()
		conn, _, err := control.Hijack()
		if err != nil {
			panic(err)
		}
		if rst {
			reset(conn)
		}
		conn.Close()
	}
}

// shortened sends half of every body and says that this is all.
func shortened(registry http.Handler, w http.ResponseWriter, r *http.Request) {
	recorded := httptest.NewRecorder()
	registry.ServeHTTP(recorded, r)
	body := recorded.Body.Bytes()
	if r.Method == http.MethodGet {
		body = body[:len(body)/2]
		recorded.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	for key, values := range recorded.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(body)
}

// dripping sends a few bytes a second.
func dripping(registry http.Handler, w http.ResponseWriter, r *http.Request) {
	whole, _ := answered(registry, w, r)
	for len(whole) > 0 && r.Context().Err() == nil {
		if _, err := w.Write(whole[:1]); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		whole = whole[1:]
		select {
		case <-r.Context().Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// says answers with a status alone. A Retry-After of nothing keeps the gate from
// waiting between its tries, which is shown elsewhere.
func says(status int, retryAfter string) interference {
	return func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
	}
}

// guarded has the registry ask for a token, and its token server be at fault.
func guarded(fault interference) interference {
	return func(registry http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			fault(registry, w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// pulled is what a client gets for the manifest.
func (s *scene) pulled(name string) seen {
	s.Helper()
	of := s.image(name)
	return s.ask(s.door.path(of.Repository, "manifests", "1"), of.Digest, 20*time.Second)
}

// layer is what it gets for the layer of a manifest that it has.
func (s *scene) layer(name string, patience time.Duration) seen {
	s.Helper()
	of := s.image(name)
	_, layers := digests(s.stage, of.Content)
	return s.ask(s.door.path(of.Repository, "blobs", layers[0].String()), layers[0], patience)
}

// whole is a pull of all of an image, up to what fails first.
func (s *scene) whole(name string) seen {
	s.Helper()
	got := s.pulled(name)
	of := s.image(name)
	config, layers := digests(s.stage, of.Content)
	for _, d := range append(layers, config) {
		if got.status != http.StatusOK {
			break
		}
		got = s.ask(s.door.path(of.Repository, "blobs", d.String()), d, 20*time.Second)
	}
	return got
}

// ask is one request of a client that hashes what it gets. That no whole answer
// holds other bytes is demanded of each.
func (s *scene) ask(path string, d digest.Digest, patience time.Duration) seen {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.door.base+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := s.door.client.Do(req)
	if ctx.Err() != nil {
		return seen{givenUp, ""}
	}
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case ctx.Err() != nil:
		return seen{givenUp, ""}
	case err != nil && resp.StatusCode == http.StatusOK:
		return seen{cutShort, ""}
	case err != nil:
		s.Fatalf("the refusal %s broke off: %v", resp.Status, err)
	case resp.StatusCode == http.StatusOK:
		if digest.FromBytes(body) != d {
			s.Fatalf("WRONG BYTES: %s is %d bytes that hash to %s", path, len(body), digest.FromBytes(body))
		}
		return seen{http.StatusOK, ""}
	}
	a := &answer{TB: s, Response: resp, body: body}
	code := map[int]string{http.StatusBadGateway: "MANIFEST_INVALID"}[resp.StatusCode]
	if code == "" {
		code = "DENIED"
	}
	if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		s.Errorf("%s without Retry-After", path)
	}
	return seen{resp.StatusCode, a.refused(resp.StatusCode, code).Message}
}

func (s *scene) expect(what string, got, want seen) {
	s.Helper()
	if want.status == cutShort && got.status == http.StatusServiceUnavailable {
		return // it was known to fail before the answer began
	}
	if got.status != want.status || !strings.Contains(got.message, want.message) {
		s.Errorf("%s: %d %q, want %d with %q", what, got.status, got.message, want.status, want.message)
		return
	}
	if got.message != "" {
		s.Logf("%s: %d %s", what, got.status, got.message)
	}
}
