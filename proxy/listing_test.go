package proxy_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

func (a *answer) tags() tagList {
	a.Helper()
	var list tagList
	if err := json.Unmarshal(a.body, &list); err != nil || a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/json" {
		a.Fatalf("%s %s %s: %v", a.Status, a.Header.Get("Content-Type"), a.body, err)
	}
	return list
}

func TestTags(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Image("app", nil)
	want := []string{"1"}
	for i := range 6 {
		tag := "v" + strconv.Itoa(i)
		s.Push("app", tag, app.Content)
		want = append(want, tag)
	}
	g := s.Gate(stage.Options{})
	f := serve(s, "HTTP/1.1", handlerFor(s, g))
	path := f.path("app", "tags", "list")

	t.Run("all at once", func(t *testing.T) {
		a := f.in(t).get(path)
		if list := a.tags(); list.Name != f.registry+"/app" || !slices.Equal(list.Tags, want) || a.Header.Get("Link") != "" {
			t.Errorf("%+v, Link %q", list, a.Header.Get("Link"))
		}
	})
	for name, ns := range map[string]string{"page by page, by Link": "", "page by page, with a namespace": registryHost} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			next := path + "?n=3"
			if ns != "" {
				next = "/v2/app/tags/list?n=3&ns=" + ns
			}
			var got []string
			for range 10 {
				a := f.get(next)
				list := a.tags()
				if len(list.Tags) > 3 {
					t.Fatalf("a page of %d", len(list.Tags))
				}
				got = append(got, list.Tags...)
				link := a.Header.Get("Link")
				if link == "" {
					break
				}
				target, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">; ")
				if !ok || rel != `rel="next"` || !strings.HasPrefix(target, "/v2/") {
					t.Fatalf("Link is %q", link)
				}
				next = target
			}
			if !slices.Equal(got, want) {
				t.Errorf("the pages hold %v, want %v", got, want)
			}
		})
	}
	t.Run("page by page, by a real client", func(t *testing.T) {
		f := f.in(t)
		got, err := remote.List(f.reference("app:1").Context(), append(f.puller(), remote.WithPageSize(2))...)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("after one", func(t *testing.T) {
		if list := f.in(t).get(path + "?last=v3").tags(); !slices.Equal(list.Tags, []string{"v4", "v5"}) {
			t.Errorf("%v", list.Tags)
		}
	})
	t.Run("a page of nothing", func(t *testing.T) {
		a := f.in(t).get(path + "?n=0")
		if list := a.tags(); list.Tags == nil || len(list.Tags) > 0 || a.Header.Get("Link") != "" {
			t.Errorf("%s, Link %q", a.body, a.Header.Get("Link"))
		}
	})
	t.Run("a page that is no number", func(t *testing.T) {
		for _, n := range []string{"-1", "x", "99999999999999999999"} {
			f.in(t).get(path+"?n="+n).refused(http.StatusBadRequest, "NAME_INVALID")
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		if a := f.in(t).head(path); a.StatusCode != http.StatusOK || len(a.body) > 0 || a.ContentLength <= 0 {
			t.Errorf("%s, %d", a.Status, a.ContentLength)
		}
	})
}

func (a *answer) index() ocispec.Index {
	a.Helper()
	var index ocispec.Index
	if err := json.Unmarshal(a.body, &index); err != nil || a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
		a.Fatalf("%s %s %s: %v", a.Status, a.Header.Get("Content-Type"), a.body, err)
	}
	if index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex || index.Manifests == nil {
		a.Fatalf("no index that clients read: %s", a.body)
	}
	return index
}

// refer publishes a manifest with a subject. The subject's type is not looked
// at by anyone.
func refer(s *stage.Stage, repository, reference, artifactType string, subject digest.Digest, layer oci.Descriptor) (digest.Digest, string) {
	s.Helper()
	empty := putBlob(s, repository, "{}")
	empty.MediaType = artifactType
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: empty, Layers: []oci.Descriptor{layer},
		Subject: &oci.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: 1},
	})
	s.Must(err)
	if reference == "" {
		reference = digest.FromBytes(raw).String()
	}
	return putManifest(s, repository, reference, ocispec.MediaTypeImageManifest, string(raw)), string(raw)
}

const (
	bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	sbomType   = "application/spdx+json"
)

func TestReferrers(t *testing.T) {
	t.Parallel()
	for _, upstream := range []string{"by the upstream's API", "by the tag that stands in for it"} {
		t.Run(upstream, func(t *testing.T) {
			s := stage.New(t)
			if upstream == "by the upstream's API" {
				library(s)
			}
			app := s.Image("app", nil)
			lonely := s.Push("app", "lonely", build(s, "lonely"))
			layer := putBlob(s, "app", `{"predicate":{}}`)
			layer.MediaType = sbomType
			var entries []oci.Descriptor
			for _, artifactType := range []string{bundleType, sbomType} {
				d, raw := refer(s, "app", "", artifactType, app.Digest, layer)
				entries = append(entries, oci.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType, Digest: d, Size: int64(len(raw))})
			}
			if upstream != "by the upstream's API" {
				raw, err := json.Marshal(ocispec.Index{
					Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
				})
				s.Must(err)
				putManifest(s, "app", evidenceTag(app.Digest, ""), ocispec.MediaTypeImageIndex, string(raw))
			}
			f := open(s, stage.Options{Mode: policy.Enforce})
			path := f.path("app", "referrers", app.Digest.String())

			all := f.get(path)
			if got := all.index().Manifests; len(got) != 2 || all.Header.Get("OCI-Filters-Applied") != "" {
				t.Errorf("%d referrers, filters %q", len(got), all.Header.Get("OCI-Filters-Applied"))
			}
			filtered := f.get(path + "?artifactType=" + strings.ReplaceAll(sbomType, "+", "%2B"))
			if got := filtered.index().Manifests; len(got) != 1 || got[0].Digest != entries[1].Digest || filtered.Header.Get("OCI-Filters-Applied") != "artifactType" {
				t.Errorf("filtered: %+v, filters %q", got, filtered.Header.Get("OCI-Filters-Applied"))
			}
			if got := f.get(path + "?artifactType=text/none").index().Manifests; len(got) != 0 {
				t.Errorf("filtered by a type that none has: %+v", got)
			}
			for _, d := range []digest.Digest{lonely.Digest, digest.FromString("of nothing")} {
				if got := f.get(f.path("app", "referrers", d.String())).index().Manifests; len(got) != 0 {
					t.Errorf("of %s: %+v", d, got)
				}
			}
			if a := f.head(path); a.StatusCode != http.StatusOK || len(a.body) > 0 {
				t.Errorf("HEAD: %s", a.Status)
			}
			f.get(f.path("app", "referrers", "sha256:abc")).refused(http.StatusBadRequest, "DIGEST_INVALID")
			// What is listed can be pulled, whatever its subject's verdict.
			f.get(f.path("app", "manifests", app.Digest.String())).refused(http.StatusForbidden, "DENIED")
			f.get(f.path("app", "manifests", entries[1].Digest.String())).served(entries[1].Digest)
			f.get(f.path("app", "blobs", layer.Digest.String())).served(layer.Digest)
		})
	}
}
