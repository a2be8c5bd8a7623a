package rebuild_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/rebuild"
)

// recorded is a provenance that BuildKit wrote.
func recorded(t testing.TB, name, predicateType string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "evidence", "provenance", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provenance.Parse(predicateType, raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestReadRecipe(t *testing.T) {
	created := time.Unix(1700000000, 0)
	for name, predicateType := range map[string]string{
		"buildkit-v1.json": provenance.TypeV1, "buildkit-v0.2.json": provenance.TypeV02,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := provenance.Parse(predicateType, recorded(t, name, predicateType))
			if err != nil {
				t.Fatal(err)
			}
			r, err := rebuild.ReadRecipe(p, "linux/amd64", created)
			if err != nil {
				t.Fatal(err)
			}
			if r.Frontend != "dockerfile.v0" || !strings.HasSuffix(r.Context, "#"+p.Revision) || !strings.HasPrefix(r.Context, p.Repository) {
				t.Errorf("%+v", r)
			}
			if r.Args["platform"] != "linux/amd64" || r.Args["build-arg:SOURCE_DATE_EPOCH"] != "1700000000" || r.Epoch != 1700000000 {
				t.Errorf("arguments %v, epoch %d", r.Args, r.Epoch)
			}
			images := 0
			for _, m := range p.Materials {
				if m.Image.IsZero() {
					continue
				}
				images++
				if pinned := r.Pins[m.Image.String()]; !strings.HasSuffix(pinned, "@"+m.ImageDigest().String()) {
					t.Errorf("%s is built from as %q", m.Image, pinned)
				}
			}
			if images == 0 || images != len(r.Pins) {
				t.Errorf("%d images, pins %v", images, r.Pins)
			}
		})
	}
}

// TestHTTPContext: without its ending BuildKit would download the URL.
func TestHTTPContext(t *testing.T) {
	const revision = "0f052c24a1541157f4d0249e982d56a84dad2a53"
	p := &provenance.Provenance{BuildType: "https://mobyproject.org/buildkit@v1", Repository: "https://github.com/acme/app", Revision: revision, Parameters: []byte(`{}`)}
	r, err := rebuild.ReadRecipe(p, "linux/amd64", time.Time{})
	if err != nil || r.Context != "https://github.com/acme/app.git#"+revision {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestReadRecipeRefuses(t *testing.T) {
	good := recorded(t, "buildkit-v1.json", provenance.TypeV1)
	for name, tc := range map[string]struct{ old, new, says string }{
		"another build type":        {"moby/buildkit", "acme/make", "not BuildKit's"},
		"a branch for a revision":   {"0f052c24a1541157f4d0249e982d56a84dad2a53", "main", "not built from a revision"},
		"a secret":                  {`"optional":true`, `"optional":false`, "with the secret"},
		"another context":           {`"build-arg:GREETING":"hi"`, `"context:base":"docker-image://evil"`, `"context:base"`},
		"an epoch that is none":     {`"build-arg:GREETING":"hi"`, `"build-arg:SOURCE_DATE_EPOCH":"yesterday"`, "which is no time"},
		"another image that builds": {`"build-arg:GREETING":"hi"`, `"build-arg:BUILDKIT_SYNTAX":"evil/frontend"`, "changes who builds"},
		"a download":                {`git://127.0.0.1:5918/acme/app`, `ftp://127.0.0.1/app.tgz`, "source"},
		"another frontend":          {`"frontend":"dockerfile.v0"`, `"frontend":"gateway.v0"`, "only Dockerfiles"},
	} {
		t.Run(name, func(t *testing.T) {
			var compact bytes.Buffer
			if err := json.Compact(&compact, good); err != nil {
				t.Fatal(err)
			}
			changed := strings.ReplaceAll(compact.String(), tc.old, tc.new)
			if changed == compact.String() {
				t.Fatalf("there is no %s to change", tc.old)
			}
			p, err := provenance.Parse(provenance.TypeV1, []byte(changed))
			if err != nil {
				t.Fatal(err)
			}
			if r, err := rebuild.ReadRecipe(p, "linux/amd64", time.Time{}); !errors.Is(err, rebuild.ErrRecipe) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
	local := recorded(t, "buildkit-v1-local.json", provenance.TypeV1)
	p, err := provenance.Parse(provenance.TypeV1, local)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rebuild.ReadRecipe(p, "", time.Time{}); !errors.Is(err, rebuild.ErrRecipe) {
		t.Errorf("a build from a local folder: %v", err)
	}
}

// member is one file of a layer.
type member struct {
	name, content string
	mode          int64
	modified      int64
}

func layer(t testing.TB, level int, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	packed, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(packed)
	for _, m := range members {
		if err := w.WriteHeader(&tar.Header{Name: m.name, Mode: m.mode, Size: int64(len(m.content)), ModTime: time.Unix(m.modified, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), packed.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func image(t testing.TB, config string, layers ...[]byte) rebuild.Image {
	t.Helper()
	blobs := map[digest.Digest][]byte{}
	describe := func(mediaType string, raw []byte) oci.Descriptor {
		d := digest.FromBytes(raw)
		blobs[d] = raw
		return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, []byte(config))}
	for _, l := range layers {
		m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayerGzip, l))
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := oci.ParseManifest(raw, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return rebuild.Image{Manifest: manifest, Config: []byte(config), Layer: func(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blobs[d.Digest])), nil
	}}
}

func TestCompare(t *testing.T) {
	const config = `{"created":"2026-01-01T00:00:00Z","config":{"Env":["A=1"]},"rootfs":{"type":"layers","diff_ids":[]}}`
	hello := member{"bin/hello", "hello", 0o755, 100}
	original := image(t, config, layer(t, 6, hello))
	for name, tc := range map[string]struct {
		rebuilt rebuild.Image
		want    []string
	}{
		"the same":             {image(t, config, layer(t, 6, hello)), nil},
		"a date in the config": {image(t, strings.Replace(config, "2026-01-01", "2026-01-02", 1), layer(t, 6, hello)), []string{"config created"}},
		"another environment":  {image(t, strings.Replace(config, "A=1", "A=2", 1), layer(t, 6, hello)), []string{"config config.Env[0]"}},
		"another content":      {image(t, config, layer(t, 6, member{"bin/hello", "jello", 0o755, 100})), []string{"file 0:/bin/hello"}},
		"another mode":         {image(t, config, layer(t, 6, member{"bin/hello", "hello", 0o4755, 100})), []string{"metadata 0:/bin/hello"}},
		"another time":         {image(t, config, layer(t, 6, member{"bin/hello", "hello", 0o755, 101})), []string{"metadata 0:/bin/hello"}},
		"a file more":          {image(t, config, layer(t, 6, hello, member{"when", "now", 0o644, 1})), []string{"file 0:/when"}},
		"another compression":  {image(t, config, layer(t, 1, hello)), []string{"layer 0"}},
		"a layer more":         {image(t, config, layer(t, 6, hello), layer(t, 6, hello)), []string{"layer "}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := rebuild.Compare(t.Context(), original, tc.rebuilt)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range found {
				got = append(got, d.Where+" "+d.Path)
				if d.Original == d.Rebuilt {
					t.Errorf("%+v is no difference", d)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	t.Run("not an archive", func(t *testing.T) {
		if _, err := rebuild.Compare(t.Context(), original, image(t, config, []byte("hello, I am no archive at all"))); !errors.Is(err, rebuild.ErrCompare) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCompareIsBounded(t *testing.T) {
	var many, none []member
	for i := range 1000 {
		many = append(many, member{fmt.Sprintf("f%04d", i), "x", 0o644, 1})
	}
	found, err := rebuild.Compare(t.Context(), image(t, `{}`, layer(t, 6, many...)), image(t, `{}`, layer(t, 6, none...)))
	if err != nil || len(found) != 200 {
		t.Errorf("%d differences, %v", len(found), err)
	}
}

func FuzzCompare(f *testing.F) {
	good := layer(f, 6, member{"bin/hello", "hello", 0o755, 100})
	f.Add([]byte(`{"created":"x"}`), good)
	f.Add([]byte(`[]`), []byte{0x28, 0xb5, 0x2f, 0xfd, 0})
	f.Add([]byte(`{}`), []byte("not an archive"))
	f.Fuzz(func(t *testing.T, config, content []byte) {
		changed := image(t, `{}`, content)
		changed.Config = config
		found, err := rebuild.Compare(t.Context(), image(t, `{}`, good), changed)
		if err == nil && len(found) == 0 && !bytes.Equal(content, good) {
			t.Error("two images that differ have no difference")
		}
	})
}
