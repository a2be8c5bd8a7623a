package cache_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/oci"
)

func wantAll(oci.Reference, oci.Kind) (string, error) { return "", nil }

// states is what became of each image.
func states(list []cache.Copied) map[string]string {
	got := map[string]string{}
	for _, c := range list {
		name := c.Reference.Name() + ":" + c.Reference.Tag()
		if c.Reference.Tag() == "" {
			name = c.Reference.String()
		}
		got[name] = c.State
	}
	return got
}

// layoutOf reads a layout as another program does: every blob must be what its
// name says, and the names of the index must be unique.
func layoutOf(t *testing.T, files map[string][]byte) map[string]digest.Digest {
	t.Helper()
	named := map[string]digest.Digest{}
	for path, raw := range files {
		if hex, ok := strings.CutPrefix(path, "blobs/sha256/"); ok && digest.FromBytes(raw).Encoded() != hex {
			t.Errorf("%s has the wrong content", path)
		}
	}
	var version ocispec.ImageLayout
	if err := json.Unmarshal(files["oci-layout"], &version); err != nil || version.Version != "1.0.0" {
		t.Errorf("it is no layout: %q, %v", files["oci-layout"], err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	for _, d := range index.Manifests {
		name := d.Annotations[ocispec.AnnotationRefName]
		if _, twice := named[name]; twice || int64(len(files["blobs/sha256/"+d.Digest.Encoded()])) != d.Size {
			t.Errorf("%q is there twice, or without its manifest", name)
		}
		named[name] = d.Digest
	}
	return named
}

func folderFiles(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(folder, path)
		files[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func tarFiles(t *testing.T, path string) map[string][]byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name] != nil {
			t.Errorf("%s is there twice", header.Name)
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExport(t *testing.T) {
	s := newShop(t, "filesystem")
	c := s.open(cache.Options{})
	base := s.blob("base", layer)
	whole, digested := s.image(base, s.blob("whole", 100)), s.image(base, s.blob("digested", 100))
	amd, arm, attestation := s.image(base), s.image(s.blob("arm", 100)), s.image(s.blob("attestation", 100))
	sparse, hollow := s.index(amd, arm), s.index(arm)
	blocked, wrong, unread := s.image(s.blob("blocked", 100)), s.image(s.blob("wrong", 100)), s.image(s.blob("unread", 100))
	s.pull(c, app, "whole", whole)
	s.pull(c, app, "again", whole)
	s.pull(c, other, "", digested)
	s.pull(c, app, "", amd)
	s.must(c.Link(t.Context(), app, arm, "")) // judged, and not pulled
	s.pull(c, app, "sparse", sparse)
	s.pull(c, app, "hollow", hollow)
	s.pull(c, app, "blocked", blocked)
	s.pull(c, app, "wrong", wrong)
	s.must(c.Link(t.Context(), app, unread, "unread"))
	s.must(c.PutBytes(t.Context(), attestation.Digest, attestation.Raw)) // evidence that nobody pulled
	empty := s.put("application/vnd.oci.empty.v1+json", []byte("{}"))
	empty.Data = []byte("{}")
	artifact := s.manifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: empty, Layers: []oci.Descriptor{base},
	})
	s.must(c.Link(t.Context(), app, artifact, "inline")) // whose config no client pulls
	s.damaged(wrong.Layers[0].Digest, flipped(s.blobs[wrong.Layers[0].Digest]))

	choose := func(ref oci.Reference, kind oci.Kind) (string, error) {
		if ref.Tag() == "blocked" {
			return "not today", nil
		}
		return "", nil
	}
	pin := func(text string) cache.Pin {
		p, err := cache.ParsePin(text)
		s.must(err)
		return p
	}
	const name, elsewhere = "registry.example/acme/app", "127.0.0.1:5000/other"
	all := map[string]string{
		name + ":whole": cache.Exported, name + ":again": cache.Exported, name + ":sparse": cache.Exported, name + ":inline": cache.Exported,
		name + ":hollow": cache.Incomplete, name + ":blocked": cache.Refused, name + ":wrong": cache.Damaged, name + ":unread": cache.Incomplete,
		elsewhere + "@" + digested.Digest.String(): cache.Exported,
	}
	for title, tc := range map[string]struct {
		only []cache.Pin
		want map[string]string
	}{
		"of everything":    {nil, all},
		"of one image":     {[]cache.Pin{pin(name + ":sparse")}, map[string]string{name + ":sparse": cache.Exported}},
		"of a repository":  {[]cache.Pin{pin("127.0.0.1:5000/**"), pin("nothing.example/*")}, map[string]string{elsewhere + "@" + digested.Digest.String(): cache.Exported}},
		"of what is wrong": {[]cache.Pin{pin(name + ":wrong")}, map[string]string{name + ":wrong": cache.Damaged}},
	} {
		for _, kind := range []string{"folder", "out.tar"} {
			t.Run(title+" into "+kind, func(t *testing.T) {
				to := filepath.Join(t.TempDir(), kind)
				var told int64
				list, err := c.Export(t.Context(), to, tc.only, choose, func(n int64) { told += n })
				if err != nil {
					t.Fatal(err)
				}
				if got := states(list); !maps.Equal(got, tc.want) {
					t.Errorf("got %v, want %v", got, tc.want)
				}
				read := folderFiles
				if strings.HasSuffix(kind, ".tar") {
					read = tarFiles
				}
				files := read(t, to)
				var size, claimed int64
				for name, raw := range files {
					if strings.HasPrefix(name, "blobs/") {
						size += int64(len(raw))
					}
				}
				for _, i := range list {
					claimed += i.Bytes
				}
				if told != size || claimed != size {
					t.Errorf("told of %d bytes, and lists %d, of %d", told, claimed, size)
				}
				named := layoutOf(t, files)
				for name, state := range tc.want {
					if _, there := named[name]; there != (state == cache.Exported) {
						t.Errorf("%s is %s, and in the index: %v", name, state, there)
					}
				}
				for _, d := range []digest.Digest{blocked.Digest, blocked.Layers[0].Digest, wrong.Layers[0].Digest, unread.Digest, attestation.Digest} {
					if files["blobs/sha256/"+d.Encoded()] != nil {
						t.Errorf("%s is in the layout", d)
					}
				}
			})
		}
	}

	t.Run("as another program reads it", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "layout")
		list, err := c.Export(t.Context(), folder, []cache.Pin{pin(name + ":{whole,sparse}")}, wantAll, nil)
		if err != nil || len(list) != 2 {
			t.Fatalf("%v, %v", list, err)
		}
		if at := slices.IndexFunc(list, func(i cache.Copied) bool { return i.Reference.Tag() == "sparse" }); !strings.Contains(list[at].Detail, "without linux/arm64 (2 of its 2 blobs") {
			t.Errorf("it does not say what the index lacks: %q", list[at].Detail)
		}
		path, err := layout.FromPath(folder)
		if err != nil {
			t.Fatal(err)
		}
		index, err := path.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		image, err := index.Image(hashOf(t, whole.Digest))
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil || len(layers) != 2 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		platforms, err := index.ImageIndex(hashOf(t, sparse.Digest))
		if err != nil {
			t.Fatal(err)
		}
		if image, err = platforms.Image(hashOf(t, amd.Digest)); err != nil {
			t.Fatal(err)
		}
		if _, err := image.RawConfigFile(); err != nil {
			t.Errorf("an image of the index: %v", err)
		}
	})

	for title, to := range map[string]string{"a folder that is not empty": s.root, "a tar that is there": filepath.Join(t.TempDir(), "there.tar")} {
		t.Run("refuses "+title, func(t *testing.T) {
			if strings.HasSuffix(to, ".tar") {
				s.must(os.WriteFile(to, []byte("precious"), 0o600))
			}
			if _, err := c.Export(t.Context(), to, nil, wantAll, nil); err == nil {
				t.Error("it is written over")
			}
			if raw, err := os.ReadFile(to); strings.HasSuffix(to, ".tar") && (err != nil || string(raw) != "precious") {
				t.Errorf("it is %q now, %v", raw, err)
			}
		})
	}

	t.Run("leaves no half of a tar", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "half.tar")
		lost := errors.New("the ledger is gone")
		_, err := c.Export(t.Context(), to, nil, func(ref oci.Reference, _ oci.Kind) (string, error) {
			if ref.Tag() == "wrong" {
				return "", lost
			}
			return "", nil
		}, nil)
		if _, statErr := os.Stat(to); !errors.Is(err, lost) || !errors.Is(statErr, fs.ErrNotExist) {
			t.Errorf("%v, and the file: %v", err, statErr)
		}
	})
}

func hashOf(t *testing.T, d digest.Digest) v1.Hash {
	t.Helper()
	hash, err := v1.NewHash(d.String())
	if err != nil {
		t.Fatal(err)
	}
	return hash
}
