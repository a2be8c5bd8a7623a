package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// warm measures what is served from memory and from disk, in turns.
func warm(ctx context.Context, w *world, r *report) error {
	byTag, byDigest := manifestPath(w.app, w.app.Tag), manifestPath(w.app, w.app.Digest.String())
	var small []string
	for _, digest := range w.small {
		small = append(small, blobPath(w.many, digest))
	}
	all := []*server{w.gate, w.distribution, w.bare, w.nginx}
	files := []*server{w.gate, w.distribution, w.nginx}
	for _, s := range files { // a manifest admits its blobs
		for _, image := range []string{byTag, byDigest, manifestPath(w.many, "1")} {
			if err := serves(ctx, s, image); err != nil {
				return err
			}
		}
		for _, blob := range small {
			if err := serves(ctx, s, blob); err != nil {
				return err
			}
		}
	}
	measures := []struct {
		name  string
		paths []string
		of    []*server
		goals []goal
	}{
		{"manifest by digest, GET", []string{byDigest}, all, []goal{
			{"distribution", atLeast, 5}, {"net/http", atLeast, 0.8}, {"nginx", atLeast, 0.7},
		}},
		{"manifest by tag, GET", []string{byTag}, all, []goal{{"distribution", atLeast, 40}}},
		{"blobs of 4 KiB", small, files, []goal{{"nginx", atLeast, 0.5}}},
	}
	var rows, cpus []*row
	for _, m := range measures {
		row, cpu := r.row(m.name, "answers/s"), r.row(m.name+", CPU", "µs/answer")
		row.goals = m.goals
		rows, cpus = append(rows, row), append(cpus, cpu)
	}
	for round := range r.options.rounds {
		for n, m := range measures { // which are compared with one another too
			progress("%s, round %d", m.name, round+1)
			row, cpu := rows[n], cpus[n]
			for i := range m.of {
				s := m.of[(i+round)%len(m.of)] // nobody is always the first
				l, err := w.put(ctx, s, 64, r.options.time, m.paths...)
				if err != nil {
					return err
				}
				row.add(s.name, l.perSecond)
				cpu.add(s.name, l.cpu*1e6)
				if m.name == "manifest by digest, GET" {
					r.latencies.add(s.name, l.latency)
				}
			}
		}
	}
	r.compare("manifest by tag, GET", "manifest by digest, GET", atLeast, 0.9)
	return nil
}

// largeBlobs measures what the kernel sends of a file.
func largeBlobs(ctx context.Context, w *world, r *report) error {
	const name, unit = "blob of 50 MiB, 4 at a time", "ms/GB"
	layer, err := layerPath(w.large)
	if err != nil {
		return err
	}
	servers := []*server{w.gate, w.distribution, w.nginx}
	for _, s := range servers {
		for _, path := range []string{manifestPath(w.large, "1"), layer} { // a manifest admits its blobs
			if err := serves(ctx, s, path); err != nil {
				return err
			}
		}
	}
	row, cpu, all := r.row(name, "MB/s"), r.row(name+", CPU", unit), r.row(name+", CPU of server and clients", unit)
	row.goals = []goal{{"nginx", atLeast, 0.95}}
	cpu.goals = []goal{{"nginx", atMost, 1.2}}
	all.goals = cpu.goals
	for round := range r.options.rounds {
		progress("%s, round %d", name, round+1)
		for i := range servers {
			s := servers[(i+round)%len(servers)]
			p, err := w.pull(ctx, s, 4, r.options.time, layer, 50*mib)
			if err != nil {
				return err
			}
			row.add(s.name, p.perSecond/1e6)
			cpu.add(s.name, p.cpu*1e3)
			all.add(s.name, p.all*1e3)
		}
	}
	return nil
}

// manyFor is how many times more rounds there are of what is quick to measure and
// differs by little.
const manyFor = 2

// heads compares HEAD with GET, both by the same client.
func heads(ctx context.Context, w *world, r *report) error {
	path := manifestPath(w.app, w.app.Tag)
	if err := serves(ctx, w.gate, path); err != nil {
		return err
	}
	const gets, heads = "manifest by tag, GET by a slower client", "manifest by tag, HEAD by the same"
	rows := map[string]*row{http.MethodGet: r.row(gets, "answers/s"), http.MethodHead: r.row(heads, "answers/s")}
	cpus := map[string]*row{http.MethodGet: r.row(gets+", CPU", "µs/answer"), http.MethodHead: r.row(heads+", CPU", "µs/answer")}
	progress("GET and HEAD")
	const parts = 4 // of a round: the two differ by less than the machine does in between
	for round := range parts * manyFor * r.options.rounds {
		methods := []string{http.MethodGet, http.MethodHead}
		for i := range methods {
			method := methods[(i+round)%2]
			l, err := w.ask(ctx, w.gate, 64, r.options.time/parts, method, path)
			if err != nil {
				return err
			}
			rows[method].add(w.gate.name, l.perSecond)
			cpus[method].add(w.gate.name, l.cpu*1e6)
		}
	}
	r.compare(heads, gets, atLeast, 1)
	return nil
}

// connections measures how throughput grows with them.
func connections(ctx context.Context, w *world, r *report) error {
	path := manifestPath(w.app, w.app.Digest.String())
	for _, n := range []int{1, 4, 16, 64, 256} {
		row := r.row("manifest by digest, "+strconv.Itoa(n)+" connections", "answers/s")
		for round := range r.options.rounds {
			progress("%d connections, round %d", n, round+1)
			for _, s := range []*server{w.gate, w.distribution, w.bare, w.nginx} {
				l, err := w.put(ctx, s, n, r.options.time/3, path)
				if err != nil {
					return err
				}
				row.add(s.name, l.perSecond)
			}
		}
		for _, name := range row.names {
			r.growth.at(name, float64(n), median(row.values[name]))
		}
	}
	return nil
}

// memory watches TrustGate's while 64 clients read 1 GiB each.
func memory(ctx context.Context, w *world, r *report) error {
	progress("publishing 1 GiB")
	image, err := w.noise(ctx, "huge", 1<<30, 1)
	if err != nil {
		return err
	}
	layer, err := layerPath(image)
	if err != nil {
		return err
	}
	row := r.row("resident memory, 64 connections and a blob of 1 GiB", "MiB")
	row.most = 96
	for round := range min(r.options.rounds, 3) {
		progress("memory, round %d", round+1)
		gate, err := w.startGate(ctx, fmt.Sprintf("memory-%d", round), w.upstream.address)
		if err != nil {
			return err
		}
		err = func() error {
			defer gate.stop()
			if err := serves(ctx, gate, manifestPath(image, "1")); err != nil {
				return err
			}
			watched, stop := context.WithCancel(ctx)
			defer stop()
			peak := make(chan int64, 1)
			go func() {
				var most int64
				for {
					now, _ := gate.resident()
					most = max(most, now)
					select {
					case <-watched.Done():
						peak <- most
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
			}()
			var clients errgroup.Group
			for range 64 { // the first of them fills the cache
				clients.Go(func() error { return download(ctx, gate.url(layer), 1<<30) })
			}
			if err := clients.Wait(); err != nil {
				return err
			}
			stop()
			row.add("trustgate", float64(<-peak)/mib)
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}
