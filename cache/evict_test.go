package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/oci"
)

const (
	layer = 100_000 // bytes
	app   = "registry.example/acme/app"
	other = "127.0.0.1_5000/other"
)

func prune(s *shop, c *cache.Cache, p cache.Pruning) cache.Pruned {
	s.Helper()
	done, err := c.Prune(s.Context(), p)
	s.must(err)
	if got := s.content(); !p.DryRun && got != done.After {
		s.Errorf("%d bytes are left, not %d", got, done.After)
	}
	return done
}

func TestTheLeastRecentlyUsedGoesFirst(t *testing.T) {
	everywhere(t, func(t *testing.T, s *shop) {
		c := s.open(cache.Options{})
		var images []*oci.Manifest
		for i := range 4 {
			images = append(images, s.image(s.blob(fmt.Sprint("layer", i), layer)))
			s.pull(c, app, fmt.Sprint("v", i), images[i])
		}
		s.pull(c, app, "v0", images[0])   // again
		c.Used(images[1].Digest, s.now()) // whose layers the client has

		would := prune(s, c, cache.Pruning{To: 2*layer + layer/2, DryRun: true})
		if len(would.Unlinked) != 2 || len(s.served()) != 8 {
			t.Errorf("a dry run: %+v", would)
		}
		done := prune(s, c, cache.Pruning{To: 2*layer + layer/2})
		s.serves(app+":v0", at(app, images[0]), app+":v1", at(app, images[1]))
		if len(done.Unlinked) != 2 || done.Unlinked[0].Tags[0] != "v2" || done.Content != would.Content || done.After != would.After {
			t.Errorf("%+v, and the dry run said %+v", done, would)
		}

		before := s.fetched[images[2].Layers[0].Digest].Load()
		s.pull(c, app, "v2", images[2])
		if s.fetched[images[2].Layers[0].Digest].Load() != before+1 {
			t.Error("what was evicted was not fetched again")
		}
		s.serves(app+":v0", at(app, images[0]), app+":v1", at(app, images[1]), app+":v2", at(app, images[2]))
	})
}

func TestAnImageGoesWithEverythingThatLeadsToIt(t *testing.T) {
	everywhere(t, func(t *testing.T, s *shop) {
		c := s.open(cache.Options{})
		base := s.blob("base", layer)
		amd, arm := s.image(base, s.blob("amd", layer)), s.image(base, s.blob("arm", layer))
		index := s.index(amd, arm)
		for _, repository := range []string{app, other} {
			for _, m := range []*oci.Manifest{amd, arm} {
				s.pull(c, repository, "", m)
			}
			s.pull(c, repository, "1", index)
			s.pull(c, repository, "latest", index)
		}
		s.pull(c, app, "arm", arm) // in use, and the base with it

		prune(s, c, cache.Pruning{To: s.content() - layer/2})
		s.serves(app+":arm", at(app, arm), at(other, arm))
		if !s.has(base.Digest) || s.has(amd.Layers[1].Digest) {
			t.Error("a layer that is still used went, or the one that is not stayed")
		}
		prune(s, c, cache.Pruning{To: 0})
		s.serves()
		if left := s.content(); left != 0 {
			t.Errorf("%d bytes stay", left)
		}
	})
}

func TestWhatWasNotUsedForLongGoes(t *testing.T) {
	s := newShop(t, "filesystem")
	c := s.open(cache.Options{})
	old, fresh := s.image(s.blob("old", layer)), s.image(s.blob("fresh", layer))
	s.pull(c, app, "old", old)
	s.pass(48 * time.Hour)
	s.pull(c, app, "fresh", fresh)
	prune(s, c, cache.Pruning{To: -1, Unused: s.now().Add(-24 * time.Hour)})
	s.serves(app+":fresh", at(app, fresh))
}

func TestPinnedImagesStay(t *testing.T) {
	first := newShop(t, "inmemory")
	first.forget()
	remembered := first.ledger
	for name, tc := range map[string]struct {
		pins []string
		want func(amd, arm, index, single *oci.Manifest) []string
	}{
		"by tag, with all that an index leads to": {[]string{"registry.example/acme/app:1"}, func(amd, arm, index, _ *oci.Manifest) []string {
			return []string{app + ":1", at(app, index), at(app, amd), at(app, arm)}
		}},
		"by repository": {[]string{"127.0.0.1:5000/*"}, func(_, _, _, single *oci.Manifest) []string {
			return []string{other + ":x", at(other, single)}
		}},
		"by a pattern of tags":           {[]string{"**:[0-9]*", "*/*/nothing:1"}, nil},
		"not by another repository":      {[]string{"registry.example/*:1"}, func(_, _, _, _ *oci.Manifest) []string { return nil }},
		"not by a tag that nothing has":  {[]string{"registry.example/acme/app:2"}, func(_, _, _, _ *oci.Manifest) []string { return nil }},
		"not by a registry without port": {[]string{"127.0.0.1/*"}, func(_, _, _, _ *oci.Manifest) []string { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, "inmemory")
			s.ledger = remembered
			var pins []cache.Pin
			for _, p := range tc.pins {
				pin, err := cache.ParsePin(p)
				if err != nil && tc.want == nil {
					return // there is no registry in it
				}
				s.must(err)
				pins = append(pins, pin)
			}
			if tc.want == nil {
				t.Fatalf("%q is read", tc.pins)
			}
			c := s.open(cache.Options{Pinned: pins})
			amd, arm := s.image(s.blob("amd", layer)), s.image(s.blob("arm", layer))
			index, single := s.index(amd, arm), s.image(s.blob("single", layer))
			s.pull(c, app, "", amd)
			s.pull(c, app, "", arm)
			s.pull(c, app, "1", index)
			s.pull(c, other, "x", single)
			done := prune(s, c, cache.Pruning{To: 0})
			s.serves(tc.want(amd, arm, index, single)...)
			if done.Pinned != done.After {
				t.Errorf("%d bytes stay, and %d are pinned", done.After, done.Pinned)
			}
		})
	}
}

func TestWhatIsUnderWayIsNotEvicted(t *testing.T) {
	everywhere(t, func(t *testing.T, s *shop) {
		c := s.open(cache.Options{})
		d := s.blob("large", 3*layer)
		half, rest := make(chan struct{}), make(chan struct{})
		body, writer := io.Pipe()
		go func() {
			writer.Write(s.blobs[d.Digest][:layer])
			close(half)
			<-rest
			writer.Write(s.blobs[d.Digest][layer:])
			writer.Close()
		}()
		filling, err := c.Blob(t.Context(), d, func(context.Context) (io.ReadCloser, int64, error) { return body, d.Size, nil })
		s.must(err)
		<-half
		prune(s, c, cache.Pruning{To: 0})
		close(rest)
		raw, err := io.ReadAll(filling)
		if err != nil || !bytes.Equal(raw, s.blobs[d.Digest]) {
			t.Errorf("the fill: %d bytes, %v", len(raw), err)
		}
		filling.Close()
		s.must(c.AwaitIdle(t.Context()))

		// A process that knows it, so that it is read from the storage.
		s.must(c.Close())
		c = s.open(cache.Options{})
		_, err = c.Scrub(t.Context(), "", 0, nil)
		s.must(err)
		if !s.has(d.Digest) {
			t.Fatal("the fill was not kept")
		}
		reading, err := c.Blob(t.Context(), d, s.fetch(d))
		s.must(err)
		begin := make([]byte, layer)
		_, err = io.ReadFull(reading, begin)
		s.must(err)
		prune(s, c, cache.Pruning{To: 0})
		raw, err = io.ReadAll(reading)
		if err != nil || !bytes.Equal(append(begin, raw...), s.blobs[d.Digest]) {
			t.Errorf("the reader: %d bytes, %v", len(raw), err)
		}
		s.must(reading.Close())
		prune(s, c, cache.Pruning{To: 0})
		if s.has(d.Digest) || s.fetched[d.Digest].Load() != 0 {
			t.Error("when nobody reads it, it can go")
		}
	})
}

func TestUsesOutliveTheProcess(t *testing.T) {
	s := newShop(t, "filesystem")
	c := s.open(cache.Options{})
	first, second := s.image(s.blob("first", layer)), s.image(s.blob("second", layer))
	s.pull(c, app, "first", first)
	s.pull(c, app, "second", second)
	s.must(c.Close())

	c = s.open(cache.Options{})
	s.pull(c, app, "first", first)
	s.must(c.Close())

	prune(s, s.open(cache.Options{}), cache.Pruning{To: layer + layer/2})
	s.serves(app+":first", at(app, first))
	remembered, err := s.ledger.Uses(t.Context())
	s.must(err)
	if _, still := remembered[second.Layers[0].Digest]; still {
		t.Error("the use of what is gone is remembered")
	}
}

// TestAnExistingFolder has no records: what came first goes first.
func TestAnExistingFolder(t *testing.T) {
	everywhere(t, func(t *testing.T, s *shop) {
		c := s.open(cache.Options{})
		var images []*oci.Manifest
		for i := range 3 {
			images = append(images, s.image(s.blob(fmt.Sprint(i), layer)))
			s.pull(c, app, fmt.Sprint(i), images[i])
		}
		s.must(c.Close())
		s.forget()
		prune(s, s.open(cache.Options{}), cache.Pruning{To: layer + layer/2})
		if got := s.served(); len(got) != 2 {
			t.Errorf("%q are left", got)
		}
	})
}

func TestAnotherProcessRemovesLinks(t *testing.T) {
	s := newShop(t, "filesystem")
	gate, person := s.open(cache.Options{}), s.open(cache.Options{})
	image := s.image(s.blob("layer", layer))
	s.pull(gate, app, "1", image)
	mark := gate.Removals()
	s.pull(gate, app, "1", image)
	if gate.Removals() != mark {
		t.Error("the mark changes though nothing was removed")
	}
	prune(s, person, cache.Pruning{To: 0})
	if gate.Removals() == mark {
		t.Error("the gate cannot see that links were removed")
	}
	s.pull(gate, app, "1", image)
	s.serves(app+":1", at(app, image))
}

func TestAManifestThatWasLostIsUnlinked(t *testing.T) {
	s := newShop(t, "filesystem")
	c := s.open(cache.Options{})
	lost, kept := s.image(s.blob("lost", layer)), s.image(s.blob("kept", layer))
	s.pull(c, app, "lost", lost)
	s.pull(c, app, "kept", kept)
	s.damaged(lost.Digest, s.blobs[lost.Digest][:5])
	prune(s, c, cache.Pruning{To: s.content() - 1})
	s.serves(app+":kept", at(app, kept))
}

func TestTheCacheHoldsItsSize(t *testing.T) {
	for _, driver := range []string{"filesystem", "inmemory"} {
		t.Run(driver, func(t *testing.T) {
			s := newShop(t, driver)
			var images []*oci.Manifest
			for i := range 8 {
				images = append(images, s.image(s.blob(fmt.Sprint(i), layer)))
			}
			huge := s.image(s.blob("huge", 6*layer))
			synctest.Test(t, func(t *testing.T) {
				inside := &shop{TB: t, driver: s.driver, root: s.root, blobs: s.blobs, fetched: s.fetched}
				o := cache.Options{Driver: s.driver, Root: s.root, Spool: t.TempDir(), MaxSize: 4 * layer}
				c, err := cache.Open(t.Context(), o)
				inside.must(err)
				ctx, stop := context.WithCancel(t.Context())
				go c.Maintain(ctx)
				for i, image := range images {
					time.Sleep(time.Minute)
					inside.pull(c, app, fmt.Sprint(i), image)
					synctest.Wait()
					if held := inside.content(); held > o.MaxSize || held > c.Counts().Bytes {
						t.Errorf("after %d images it has %d bytes, and believes %d", i+1, held, c.Counts().Bytes)
					}
				}
				inside.serves(app+":5", at(app, images[5]), app+":6", at(app, images[6]), app+":7", at(app, images[7]))
				if n := c.Counts(); n.Evicted == 0 || n.EvictedBytes < 5*layer {
					t.Errorf("it counts %+v", n)
				}
				time.Sleep(time.Minute)
				raw, err := inside.read(c, huge.Layers[0])
				inside.must(c.AwaitIdle(t.Context()))
				if err != nil || int64(len(raw)) != huge.Layers[0].Size || inside.has(huge.Layers[0].Digest) || len(inside.served()) != 6 {
					t.Errorf("a blob larger than the cache: %d bytes, %v; the cache serves %q", len(raw), err, inside.served())
				}
				stop()
				inside.must(c.Close())
			})
		})
	}
}

// TestPullsWhileEvicting has three processes on one folder, two of which pull
// and evict and one that prunes. Whoever pulls gets the right bytes, and in the
// end nothing is linked that is not whole.
func TestPullsWhileEvicting(t *testing.T) {
	s := newShop(t, "filesystem")
	var images []*oci.Manifest
	base := s.blob("base", layer)
	for i := range 6 {
		images = append(images, s.image(base, s.blob(fmt.Sprint("a", i), layer/4), s.blob(fmt.Sprint("b", i%3), layer/4)))
	}
	ctx, stop := context.WithCancel(t.Context())
	var gates, upkeep, pulls sync.WaitGroup
	caches := []*cache.Cache{}
	for range 2 {
		c := s.open(cache.Options{MaxSize: 3 * layer})
		caches = append(caches, c)
		gates.Go(func() { c.Maintain(ctx) })
	}
	person := s.open(cache.Options{})
	pulled := make(chan struct{})
	upkeep.Go(func() {
		for {
			select {
			case <-pulled:
				return
			default:
			}
			if _, err := person.Prune(ctx, cache.Pruning{To: 2 * layer}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for worker := range 4 {
		pulls.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 12 {
				image := images[random.IntN(len(images))]
				s.pull(caches[worker%2], app, fmt.Sprint("t", random.IntN(4)), image)
			}
		})
	}
	pulls.Wait()
	close(pulled)
	upkeep.Wait()
	stop()
	gates.Wait()
	for _, c := range caches {
		s.must(c.Close())
	}
	s.served() // each of them whole
	prune(s, person, cache.Pruning{To: 0})
	s.serves()
}

func TestParsePin(t *testing.T) {
	for text, problem := range map[string]string{
		"docker.io/library/debian:12":      "",
		"registry.example:5000/base/*":     "",
		"registry.example/**":              "",
		"*/library/debian:{11,12}":         "",
		"debian":                           "not a repository with its registry",
		"debian:12":                        "not a repository with its registry",
		"/debian":                          "not a repository with its registry",
		"registry.example/":                "not a repository with its registry",
		"registry.example:5000":            "not a repository with its registry",
		"registry.example/a@sha256:abc":    "not a repository with its registry",
		"registry.example/a:":              "ends where its tag should be",
		"registry.example/[a":              "not a pattern",
		"registry.example/a:[0-":           "not a pattern",
		"":                                 "not a repository with its registry",
		digest.FromString("").String():     "not a repository with its registry",
		"registry.example/a/b/c/d/e:1.2-x": "",
	} {
		_, err := cache.ParsePin(text)
		if (err == nil) != (problem == "") || err != nil && !bytes.Contains([]byte(err.Error()), []byte(problem)) {
			t.Errorf("%q: %v, want %q", text, err, problem)
		}
	}
}

func FuzzParsePin(f *testing.F) {
	for _, seed := range []string{"docker.io/library/debian:12", "a:5/b/*", "*/**:{a,b}", "a/[!b-c]:?", ":/:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		pin, err := cache.ParsePin(s)
		if err == nil && pin.String() != s {
			t.Fatalf("%q is read as %q", s, pin)
		}
	})
}

// TestUnlink: what was deleted upstream is gone from the folder too, for whoever
// reads it, and from the one repository alone.
func TestUnlink(t *testing.T) {
	everywhere(t, func(t *testing.T, s *shop) {
		c := s.open(cache.Options{})
		kept, gone := s.image(s.blob("shared", layer)), s.image(s.blob("own", layer))
		s.pull(c, app, "kept", kept)
		s.pull(c, app, "gone", gone)
		s.pull(c, app, "same", gone)
		s.pull(c, other, "gone", gone)
		mark := c.Removals()
		s.must(c.Unlink(t.Context(), app, gone.Digest))
		s.serves(app+":kept", at(app, kept), other+":gone", at(other, gone))
		if c.Removals() == mark {
			t.Error("nobody can see that links were removed")
		}
		s.must(c.UnlinkTag(t.Context(), app, "kept"))
		s.serves(at(app, kept), other+":gone", at(other, gone))
		s.must(c.UnlinkTag(t.Context(), app, "never"))
		s.must(c.Unlink(t.Context(), "registry.example/never", gone.Digest))
		s.pull(c, app, "gone", gone)
		s.serves(at(app, kept), app+":gone", at(app, gone), other+":gone", at(other, gone))
		for _, bad := range []string{"../x", "A", ""} {
			if c.Unlink(t.Context(), bad, gone.Digest) == nil || c.UnlinkTag(t.Context(), bad, "v1") == nil {
				t.Errorf("a repository %q is taken", bad)
			}
		}
		if c.UnlinkTag(t.Context(), app, "../current") == nil {
			t.Error("a tag that climbs is taken")
		}
	})
}
