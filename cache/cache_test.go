package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// place is storage that can be opened again and again, as a process does.
type place struct {
	root, spool string
	driver      storagedriver.StorageDriver
}

func filesystem(t testing.TB) *place {
	root := filepath.Join(t.TempDir(), "cache")
	return &place{root: root, spool: filepath.Join(t.TempDir(), "spool"), driver: driverFor(t, "filesystem", root)}
}

func inmemory(t testing.TB) *place {
	return &place{spool: filepath.Join(t.TempDir(), "spool"), driver: driverFor(t, "inmemory", "")}
}

func driverFor(t testing.TB, name, root string) storagedriver.StorageDriver {
	t.Helper()
	driver, err := OpenDriver(name, map[string]any{"rootdirectory": root})
	if err != nil {
		t.Fatal(err)
	}
	return driver
}

func (p *place) open(t testing.TB) *Cache {
	t.Helper()
	c, err := Open(context.Background(), Options{Driver: p.driver, Root: p.root, Spool: p.spool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// stored is what the storage has under the digest; nil when nothing.
func (p *place) stored(t testing.TB, d digest.Digest) []byte {
	t.Helper()
	raw, err := p.driver.GetContent(t.Context(), blobDataPath(d))
	if isPathNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (p *place) overwrite(t testing.TB, d digest.Digest, raw []byte) {
	t.Helper()
	if err := p.driver.PutContent(t.Context(), blobDataPath(d), raw); err != nil {
		t.Fatal(err)
	}
}

// everywhere runs a test on each driver: two storages, one contract.
func everywhere(t *testing.T, test func(t *testing.T, p *place)) {
	t.Run("filesystem", func(t *testing.T) { test(t, filesystem(t)) })
	t.Run("inmemory", func(t *testing.T) { test(t, inmemory(t)) })
}

// content is size bytes that no pattern hides damage in, and their descriptor.
func content(size int) ([]byte, oci.Descriptor) {
	raw := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)}).Read(raw)
	return raw, oci.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(raw), Size: int64(size)}
}

func flipped(raw []byte, at int) []byte {
	raw = bytes.Clone(raw)
	raw[at] ^= 1
	return raw
}

func TestBytes(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		ctx := t.Context()
		c := p.open(t)
		raw, d := content(3000)
		if _, err := c.Bytes(ctx, d.Digest, 1<<20); !errors.Is(err, oci.ErrNotFound) {
			t.Fatalf("before: %v", err)
		}
		if err := c.PutBytes(ctx, d.Digest, flipped(raw, 1)); !errors.Is(err, ErrDigest) {
			t.Fatalf("putting wrong bytes: %v", err)
		}
		if p.stored(t, d.Digest) != nil {
			t.Fatal("wrong bytes are stored")
		}
		for range 2 {
			if err := c.PutBytes(ctx, d.Digest, raw); err != nil {
				t.Fatal(err)
			}
		}
		// From memory and, in a new process, from the storage.
		for _, c := range []*Cache{c, p.open(t)} {
			for range 2 {
				got, err := c.Bytes(ctx, d.Digest, 3000)
				if err != nil || !bytes.Equal(got, raw) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				clear(got) // must not reach what the next one gets
			}
			if _, err := c.Bytes(ctx, d.Digest, 2999); !errors.Is(err, ErrLength) {
				t.Fatalf("with a limit below its length: %v", err)
			}
		}
		if _, err := p.open(t).Bytes(ctx, d.Digest, 2999); !errors.Is(err, ErrLength) {
			t.Fatalf("with a limit below its length, unread: %v", err)
		}
		if _, err := c.Bytes(ctx, "sha256:../../../../etc/passwd", 10); !errors.Is(err, oci.ErrDigest) {
			t.Fatalf("a digest that is none: %v", err)
		}
		long := digest.SHA512.FromBytes(raw)
		if err := c.PutBytes(ctx, long, raw); err != nil {
			t.Fatal(err)
		}
		if got, err := p.open(t).Bytes(ctx, long, 1<<20); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("sha512: %v", err)
		}
	})
}

func TestBytesDamaged(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		raw, d := content(3000)
		for name, damaged := range map[string][]byte{"flipped": flipped(raw, 2999), "short": raw[:2000], "empty": {}, "long": append(bytes.Clone(raw), 0)} {
			p.overwrite(t, d.Digest, damaged)
			if got, err := p.open(t).Bytes(t.Context(), d.Digest, 1<<20); !errors.Is(err, oci.ErrNotFound) {
				t.Fatalf("%s: %d bytes, %v", name, len(got), err)
			}
			if p.stored(t, d.Digest) != nil {
				t.Fatalf("%s: still stored", name)
			}
			p.overwrite(t, d.Digest, damaged)
			if err := p.open(t).PutBytes(t.Context(), d.Digest, raw); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p.stored(t, d.Digest), raw) {
				t.Fatalf("%s: not mended", name)
			}
		}
	})
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent()
	raw := make([]byte, recentEntry)
	for i := range 2 * recentBytes / recentEntry {
		r.add(digest.FromString(fmt.Sprint(i)), raw)
	}
	if r.bytes > recentBytes || r.bytes != r.entries.Len()*recentEntry || r.bytes == 0 {
		t.Fatalf("%d bytes in %d entries", r.bytes, r.entries.Len())
	}
	big := digest.FromString("big")
	r.add(big, make([]byte, recentEntry+1))
	if _, ok := r.get(big); ok {
		t.Fatal("keeps an entry that is too large")
	}
}

func TestOpenRefuses(t *testing.T) {
	root := t.TempDir()
	fsDriver := driverFor(t, "filesystem", root)
	for name, o := range map[string]Options{
		"no driver":                {Root: root},
		"files without a root":     {Driver: fsDriver, Spool: t.TempDir()},
		"memory with a root":       {Driver: driverFor(t, "inmemory", ""), Root: root},
		"memory without a spool":   {Driver: driverFor(t, "inmemory", "")},
		"another root than theirs": {Driver: fsDriver, Root: t.TempDir()},
	} {
		if c, err := Open(t.Context(), o); err == nil {
			c.Close()
			t.Errorf("%s: opened", name)
		}
	}
	for name, parameters := range map[string]map[string]any{"s4": nil, "filesystem": {}} {
		if _, err := OpenDriver(name, parameters); err == nil {
			t.Errorf("%s with %v: opened", name, parameters)
		}
	}
}

func TestSpoolInsideTheCache(t *testing.T) {
	p := filesystem(t)
	p.spool = ""
	c := p.open(t)
	raw, d := content(100_000)
	if got, err := pull(t, c, d, &source{raw: raw}); err != nil || !bytes.Equal(got, raw) {
		t.Fatal(err)
	}
	c.Close()
	if left := files(t, filepath.Join(p.root, ".spool")); len(left) != 1 || filepath.Base(left[0]) != lockName {
		t.Fatalf("left behind: %v", left)
	}
}

func TestSpoolOnAnotherVolume(t *testing.T) {
	const elsewhere = "/dev/shm"
	p := filesystem(t)
	spool, err := os.MkdirTemp(elsewhere, "spool")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(spool)
	if err := os.Rename(spool, filepath.Join(p.root, "..", "moved")); err == nil {
		t.Skip(elsewhere + " is on the volume of the temporary files")
	}
	p.spool = spool
	c := p.open(t)
	raw, d := content(100_000)
	if got, err := pull(t, c, d, &source{raw: raw}); err != nil || !bytes.Equal(got, raw) {
		t.Fatal(err)
	}
	c.Close()
	if !bytes.Equal(p.stored(t, d.Digest), raw) {
		t.Fatal("not stored")
	}
}

// TestSpoolLeftovers finds what a killed process leaves: its folder, with the
// lock that the kernel took from it.
func TestSpoolLeftovers(t *testing.T) {
	p := filesystem(t)
	for _, left := range []string{"fills-dead/lock", "fills-dead/1", "fills-unlocked/7", "mine/keep"} {
		path := filepath.Join(p.spool, left)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("left"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	living := p.open(t)
	raw, d := content(200_000)
	up := &source{raw: raw, gate: make(chan struct{}), stopAt: 100_000}
	blob, err := living.Blob(t.Context(), d, up.fetch)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()

	second := p.open(t)
	var names []string
	for _, path := range files(t, p.spool) {
		rest, _ := filepath.Rel(p.spool, path)
		names = append(names, strings.Split(rest, string(filepath.Separator))[0])
	}
	got := strings.Join(names, " ")
	if strings.Contains(got, "fills-dead") || strings.Contains(got, "fills-unlocked") || !strings.Contains(got, "mine") ||
		!strings.Contains(got, filepath.Base(living.spool.folder)) || !strings.Contains(got, filepath.Base(second.spool.folder)) {
		t.Fatalf("the spool has %s", got)
	}
	close(up.gate)
	if all, err := io.ReadAll(blob); err != nil || !bytes.Equal(all, raw) {
		t.Fatalf("the other process's fill: %v", err)
	}
	if err := errors.Join(living.Close(), living.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(living.spool.folder); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("after Close: %v", err)
	}
}

func files(t testing.TB, folder string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestRepositoryName(t *testing.T) {
	for in, want := range map[string]string{
		"nginx":                    "docker.io/library/nginx",
		"ghcr.io/acme/app:1":       "ghcr.io/acme/app",
		"127.0.0.1:5000/app":       "127.0.0.1_5000/app",
		"Registry.Example:443/a/b": "registry.example_443/a/b",
		"localhost/app":            "localhost/app",
		"[::1]:5000/app":           "0000_0000_0000_0000_0000_0000_0000_0001_5000/app",
		"[2001:DB8::1]/app":        "2001_0db8_0000_0000_0000_0000_0000_0001/app",
	} {
		ref, err := oci.ParseReference(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := RepositoryName(ref); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func FuzzRepositoryName(f *testing.F) {
	for _, seed := range []string{"nginx", "127.0.0.1:5000/app", "[::1]:5000/app", "[fe80:]/x", "A--B.example:1/a__b/c.d", "[1:2]:3/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := oci.ParseReference(s)
		if err != nil {
			return
		}
		name := RepositoryName(ref)
		if len(name) > reference.RepositoryNameTotalLengthMax {
			return
		}
		if strings.ContainsAny(name, ":[]") || strings.Contains(name, "..") || strings.ToLower(name) != name {
			t.Fatalf("%q becomes %q", s, name)
		}
		// An "IPv6 address" that is none cannot be dialled and may be refused.
		if err := checkName(name); err != nil && !strings.HasPrefix(ref.Registry(), "[") {
			t.Fatalf("%q becomes %q: %v", s, name, err)
		}
	})
}
