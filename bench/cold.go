package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// coldBlobs measures the first pull of a blob: it comes from the upstream, is
// kept on the way, and TrustGate hashes it besides.
func coldBlobs(ctx context.Context, w *world, r *report) error {
	const size = 64 * mib
	first, whole := r.row("cold blob of 64 MiB, first byte", "ms"), r.row("cold blob of 64 MiB", "MB/s")
	first.goals = []goal{{"distribution", atMost, 1}}
	whole.goals = []goal{{"distribution", atLeast, 1}}
	// All of them are published before, so that nobody waits for the disk on the
	// publisher's behalf.
	servers := []*server{w.gate, w.distribution}
	layers := map[*server][]string{}
	progress("publishing cold blobs")
	rounds := manyFor * r.options.rounds
	for round := range rounds {
		for _, s := range servers {
			image, err := w.noise(ctx, fmt.Sprintf("cold-%d-%s", round, s.name), size, 1)
			if err != nil {
				return err
			}
			layer, err := layerPath(image)
			if err != nil {
				return err
			}
			layers[s] = append(layers[s], layer)
			if err := serves(ctx, s, manifestPath(image, "1")); err != nil {
				return err
			}
		}
	}
	runtime.GC()
	progress("cold blobs")
	for round := range rounds {
		for i := range servers {
			s := servers[(i+round)%2]
			layer := layers[s][round]
			syscall.Sync() // what the one before wrote is none of this one's either
			began := time.Now()
			resp, err := http.Get(s.url(layer))
			if err != nil {
				return err
			}
			var one [1]byte
			_, err = io.ReadFull(resp.Body, one[:])
			toFirst := time.Since(began)
			n, copyErr := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err = errors.Join(err, copyErr); err != nil || n != size-1 {
				return fmt.Errorf("%s: %d bytes of the blob, %w", s.name, n+1, err)
			}
			first.add(s.name, toFirst.Seconds()*1e3)
			whole.add(s.name, size/time.Since(began).Seconds()/1e6)
		}
	}
	return nil
}

// distance is how far away the upstream of coldAdmissions is.
const distance = 20 * time.Millisecond

// coldAdmissions measures the verdict on an image that nobody pulled before,
// from an upstream 20 ms away, and how long cosign takes to check its signature and
// its provenance, which is less.
func coldAdmissions(ctx context.Context, w *world, r *report) error {
	target, err := url.Parse("http://" + w.upstream.address)
	if err != nil {
		return err
	}
	var asked rounds
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Host = target.Host
	}}
	far := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		defer asked.add(time.Now())
		time.Sleep(distance)
		proxy.ServeHTTP(rw, req)
	}))
	defer far.Close()
	address := far.Listener.Addr().String()
	gate, err := w.startGate(ctx, "far", address)
	if err != nil {
		return err
	}
	defer gate.stop()

	took := r.row("cold admission, upstream at 20 ms", "ms")
	took.goals = []goal{{"cosign", atMost, 1}}
	inSequence := r.row("cold admission, requests one after the other", "rounds")
	inSequence.most = 6
	for round := range r.options.rounds {
		progress("cold admission, round %d", round+1)
		image, err := w.family(ctx, fmt.Sprintf("cold-%d", round))
		if err != nil {
			return err
		}
		byGate := func() error {
			asked.reset()
			began := time.Now()
			if err := serves(ctx, gate, manifestPath(image, "1")); err != nil {
				return err
			}
			took.add("trustgate", time.Since(began).Seconds()*1e3)
			inSequence.add("trustgate", float64(asked.longest()))
			return nil
		}
		byCosign := func() error {
			began := time.Now()
			for _, args := range [][]string{{"verify"}, {"verify-attestation", "--type", "slsaprovenance1"}} {
				args = append(args, "--key", w.file("ci.pub"), "--insecure-ignore-tlog=true", "--allow-http-registry", address+"/"+image.Repository+":1")
				if out, err := exec.CommandContext(ctx, filepath.Join(w.tools, "cosign"), args...).CombinedOutput(); err != nil {
					return fmt.Errorf("cosign %v: %w\n%s", args, err, out)
				}
			}
			took.add("cosign", time.Since(began).Seconds()*1e3)
			return nil
		}
		turns := []func() error{byGate, byCosign}
		for i := range turns {
			if err := turns[(i+round)%2](); err != nil {
				return err
			}
		}
	}
	return nil
}

// rounds are the requests that were answered.
type rounds struct {
	mu   sync.Mutex
	from []time.Time
	to   []time.Time
}

func (r *rounds) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from, r.to = nil, nil
}

func (r *rounds) add(from time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from, r.to = append(r.from, from), append(r.to, time.Now())
}

// longest is how many requests came one after the other: the most of them of
// which each began when the one before had ended.
func (r *rounds) longest() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	order := make([]int, len(r.to))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return r.to[a].Compare(r.to[b]) })
	var n int
	var free time.Time
	for _, i := range order {
		if !r.from[i].Before(free) {
			n++
			free = r.to[i]
		}
	}
	return n
}
