package cache_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/oci"
)

// path is where distribution keeps the content.
func (s *shop) path(d digest.Digest) string {
	return "/docker/registry/v2/blobs/sha256/" + d.Encoded()[:2] + "/" + d.Encoded() + "/data"
}

// damaged puts other bytes in the place of content, as a disk does: neither its
// inode nor its times tell. Only its length may.
func (s *shop) damaged(d digest.Digest, raw []byte) {
	s.Helper()
	if s.root == "" {
		s.must(s.driver.PutContent(s.Context(), s.path(d), raw))
		return
	}
	file := filepath.Join(s.root, s.path(d))
	before, err := os.Stat(file)
	s.must(err)
	s.must(os.WriteFile(file, raw, 0o644))
	s.must(os.Chtimes(file, time.Time{}, before.ModTime()))
}

func flipped(raw []byte) []byte {
	raw = bytes.Clone(raw)
	raw[len(raw)/2] ^= 1
	return raw
}

// told is the one damage that was told of since the last time.
func (s *shop) told(d digest.Digest, found string) {
	s.Helper()
	select {
	case got := <-s.damage:
		if got.Digest != d || got.Found != found || got.Detail == "" || got.Time.IsZero() {
			s.Errorf("told of %+v, not of %s by %s", got, d, found)
		}
	default:
		s.Errorf("nobody was told that %s is damaged", d)
	}
	if len(s.damage) > 0 {
		s.Errorf("and then of %+v", <-s.damage)
	}
	events, count, err := s.ledger.Events(s.Context(), "cache.damage."+found, 1)
	s.must(err)
	if count == 0 || events[0].Digest != d {
		s.Errorf("the ledger's newest event is %+v", events)
	}
}

func TestScrubFindsWhatNoUseDoes(t *testing.T) {
	everywhere(t, func(t *testing.T, s *shop) {
		c := s.open(cache.Options{})
		image, sound := s.image(s.blob("layer", layer)), s.image(s.blob("sound", layer))
		s.pull(c, app, "1", image)
		s.pull(c, app, "2", sound)
		pass, err := c.Scrub(t.Context(), "", 0, nil)
		if err != nil || pass.Content != 6 || pass.Bytes != s.content() || pass.Damaged != 0 {
			t.Fatalf("all is well: %+v, %v", pass, err)
		}
		for what, d := range map[string]digest.Digest{"a layer": image.Layers[0].Digest, "a config": image.Config.Digest, "a manifest": image.Digest} {
			s.damaged(d, flipped(s.blobs[d]))
			pass, err := c.Scrub(t.Context(), "", 0, nil)
			if err != nil || pass.Damaged != 1 || pass.Unreadable != 0 || s.has(d) {
				t.Fatalf("%s with a wrong bit: %+v, %v", what, pass, err)
			}
			s.told(d, cache.FoundByScrub)
			s.pull(c, app, "1", image) // fetched again
			if !s.has(d) {
				t.Fatalf("%s did not come back", what)
			}
		}
		if n := c.Counts().Damaged; n != 3 {
			t.Errorf("it counts %d", n)
		}
		s.serves(app+":1", at(app, image), app+":2", at(app, sound))
	})
}

func TestDamageThatAUseFindsIsTold(t *testing.T) {
	everywhere(t, func(t *testing.T, s *shop) {
		image := s.image(s.blob("layer", layer))
		c := s.open(cache.Options{})
		s.pull(c, app, "1", image)
		s.must(c.Close())
		blob, raw := image.Layers[0], s.blobs[image.Layers[0].Digest]

		for name, wrong := range map[string][]byte{"a flipped bit": flipped(raw), "a cut": raw[:layer/2], "nothing left": {}} {
			s.damaged(blob.Digest, wrong)
			c := s.open(cache.Options{})
			// A reader may be cut off; the next gets it whole.
			if got, err := s.read(c, blob); err == nil && !bytes.Equal(got, raw) {
				t.Fatalf("%s: served", name)
			} else if err != nil && !errors.Is(err, cache.ErrDigest) {
				t.Fatalf("%s: %v", name, err)
			}
			s.told(blob.Digest, cache.FoundByUse)
			if got, err := s.read(c, blob); err != nil || !bytes.Equal(got, raw) {
				t.Fatalf("%s, again: %v", name, err)
			}
			s.must(c.Close())
		}

		s.damaged(image.Digest, flipped(image.Raw))
		c = s.open(cache.Options{})
		if _, err := c.Bytes(t.Context(), image.Digest, 1<<20); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("a manifest with a flipped bit: %v", err)
		}
		s.told(image.Digest, cache.FoundByUse)
		s.must(c.PutBytes(t.Context(), image.Digest, image.Raw))
		s.damaged(image.Digest, image.Raw[:10])
		s.must(s.open(cache.Options{}).PutBytes(t.Context(), image.Digest, image.Raw))
		s.told(image.Digest, cache.FoundByUse)
	})
}

func TestScrubGoesOnWhereItWas(t *testing.T) {
	s := newShop(t, "filesystem")
	c := s.open(cache.Options{})
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		s.pull(c, app, name, s.image(s.blob(name, 100)))
	}
	ctx, stop := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	first, err := c.Scrub(ctx, "", 0, func(p cache.Scrubbed) {
		if p.Content == 7 {
			stop(enough)
		}
	})
	if !errors.Is(err, enough) || first.Content != 7 {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := c.Scrub(t.Context(), first.At, 0, nil)
	if err != nil || second.Content != 15-7 {
		t.Fatalf("the rest: %+v, %v", second, err)
	}

	// A gate that starts again does so by itself.
	digests := []digest.Digest{}
	for d := range s.blobs {
		digests = append(digests, d)
	}
	slices.Sort(digests)
	s.must(s.ledger.RecordScrub(t.Context(), s.now(), time.Time{}, digests[10]))
	s.must(c.Close())
	s.damaged(digests[10], []byte("wrong, and behind it"))
	s.damaged(digests[11], []byte("wrong, and before it"))
	finished := make(chan struct{})
	log := zap.New(zapcore.RegisterHooks(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(new(bytes.Buffer)), zap.InfoLevel),
		func(e zapcore.Entry) error {
			if strings.HasPrefix(e.Message, "scrubbed the cache") {
				close(finished)
			}
			return nil
		}))
	c = s.open(cache.Options{Scrub: cache.Schedule{Every: time.Hour}, Log: log})
	go c.Maintain(t.Context())
	<-finished
	s.must(c.Close())
	s.told(digests[11], cache.FoundByScrub)
	started, ended, at, err := s.ledger.Scrub(t.Context())
	if err != nil || ended.Before(started) || at != "" {
		t.Errorf("recorded %s to %s at %q, %v", started, ended, at, err)
	}
}

// TestScrubKeepsItsPaceAndSchedule in a time that passes when all wait.
func TestScrubKeepsItsPaceAndSchedule(t *testing.T) {
	s := newShop(t, "inmemory")
	image := s.image(s.blob("layer", 10*layer))
	synctest.Test(t, func(t *testing.T) {
		inside := &shop{TB: t, driver: s.driver, blobs: s.blobs, fetched: s.fetched}
		c, err := cache.Open(t.Context(), cache.Options{
			Driver: s.driver, Spool: t.TempDir(), Scrub: cache.Schedule{Every: 24 * time.Hour, Rate: layer},
		})
		inside.must(err)
		inside.pull(c, app, "1", image)
		go c.Maintain(t.Context())
		synctest.Wait()
		if n := c.Counts().ScrubbedBytes; n != 0 && !c.Counts().Scrubbed.IsZero() {
			t.Errorf("%d bytes are hashed at once", n)
		}
		time.Sleep(9 * time.Second)
		if !c.Counts().Scrubbed.IsZero() {
			t.Error("ten times what it may hash in a second took less than nine")
		}
		time.Sleep(3 * time.Second)
		first := c.Counts().Scrubbed
		if first.IsZero() {
			t.Error("it does not come to its end")
		}
		time.Sleep(23 * time.Hour)
		if c.Counts().Scrubbed != first {
			t.Error("it begins again too early")
		}
		time.Sleep(2 * time.Hour)
		if c.Counts().Scrubbed == first {
			t.Error("it does not begin again")
		}
		inside.must(c.Close())
	})
}
