package provenance_test

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/provenance"
)

var (
	pinned     = digest.FromString("the base")
	pinnedLong = digest.SHA512.FromString("the base")
	another    = digest.FromString("another base")
)

// parseMaterial reads a provenance of one material. A digest stands beside the
// URI unless it is nil.
func parseMaterial(t testing.TB, uri string, beside map[string]string) (provenance.Material, error) {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"materials": []any{map[string]any{"uri": uri, "digest": beside}}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := provenance.Parse(provenance.TypeV02, raw)
	if err != nil {
		return provenance.Material{}, err
	}
	return p.Materials[0], nil
}

func TestMaterialsThatAreImages(t *testing.T) {
	beside := map[string]string{"sha256": pinned.Encoded()}
	escaped := "sha256%3A" + pinned.Encoded()
	for _, tc := range []struct {
		name, uri       string
		beside          map[string]string
		image, platform string
		d               digest.Digest
	}{
		{"BuildKit's, of Docker Hub", "pkg:docker/nginx@1.27?platform=linux%2Famd64", beside, "docker.io/library/nginx:1.27", "linux/amd64", pinned},
		{"BuildKit's, with a variant", "pkg:docker/acme/app@1?platform=linux%2Farm64%2Fv8", beside, "docker.io/acme/app:1", "linux/arm64/v8", pinned},
		{"BuildKit's, with a port", "pkg:docker/127.0.0.1:5917/acme/base@2?platform=linux%2Famd64", beside, "127.0.0.1:5917/acme/base:2", "linux/amd64", pinned},
		{"BuildKit's, with an escaped port", "pkg:docker/127.0.0.1%3A5917/acme/base@2", beside, "127.0.0.1:5917/acme/base:2", "", pinned},
		{"BuildKit's, pinned in the Dockerfile", "pkg:docker/ghcr.io/acme/app@1?digest=" + pinned.String() + "&platform=linux%2Famd64", beside, "ghcr.io/acme/app:1", "linux/amd64", pinned},
		{"BuildKit's, pinned in the URI alone", "pkg:docker/ghcr.io/acme/app@1?digest=" + escaped, nil, "ghcr.io/acme/app:1", "", pinned},
		{"BuildKit's, without a tag", "pkg:docker/ghcr.io/acme/app?digest=" + escaped, nil, "ghcr.io/acme/app", "", pinned},
		{"BuildKit's, of localhost", "pkg:docker/localhost/app@1", nil, "localhost/app:1", "", ""},

		{"the specification's docker type", "pkg:docker/cassandra@latest", nil, "docker.io/library/cassandra:latest", "", ""},
		{"the specification's short version", "pkg:docker/smartentry/debian@dc437cc87d10", nil, "docker.io/smartentry/debian:dc437cc87d10", "", ""},
		{"the specification's docker type, pinned", "pkg:docker/customer/dockerimage@" + escaped + "?repository_url=gcr.io", nil, "gcr.io/customer/dockerimage", "", pinned},
		{"the specification's oci type", "pkg:oci/debian@" + escaped + "?repository_url=docker.io/library/debian&arch=amd64&tag=latest", nil, "docker.io/library/debian:latest", "", pinned},
		{"the specification's oci type, in another registry", "pkg:oci/debian@" + escaped + "?repository_url=ghcr.io/debian&tag=bullseye", nil, "ghcr.io/debian:bullseye", "", pinned},
		{"the specification's oci type, by tag", "pkg:oci/static?repository_url=gcr.io/distroless/static&tag=latest", nil, "gcr.io/distroless/static:latest", "", ""},
		{"the specification's oci type, without a registry", "pkg:oci/debian@" + escaped, nil, "docker.io/library/debian", "", pinned},
		{"an oci type whose repository is the folder", "pkg:oci/static?repository_url=gcr.io/distroless", nil, "gcr.io/distroless/static", "", ""},
		{"an oci type whose repository only ends alike", "pkg:oci/static?repository_url=gcr.io/nonstatic", nil, "gcr.io/nonstatic/static", "", ""},
		{"an oci type of a slash at the end", "pkg:oci/static?repository_url=gcr.io/distroless/static/", nil, "gcr.io/distroless/static", "", ""},
		{"a registry written as a URL", "pkg:docker/acme/app@1?repository_url=https:%2F%2Fghcr.io", nil, "ghcr.io/acme/app:1", "", ""},
		{"a registry with a port", "pkg:oci/app@" + escaped + "?repository_url=localhost:5000%2Fapp", nil, "localhost:5000/app", "", pinned},
		{"a digest of the other algorithm", "pkg:docker/app@sha512%3A" + pinnedLong.Encoded(), nil, "docker.io/library/app", "", pinnedLong},
		{"digests of both algorithms", "pkg:docker/app@sha512%3A" + pinnedLong.Encoded(), beside, "docker.io/library/app", "", pinned},
		{"the same digest three times", "pkg:docker/app@" + escaped + "?digest=" + escaped, beside, "docker.io/library/app", "", pinned},
		{"the scheme in capitals", "PKG:docker/app@1", nil, "docker.io/library/app:1", "", ""},
		{"the type in capitals", "pkg:Docker/app@1", nil, "docker.io/library/app:1", "", ""},
		{"a slash too many", "pkg:/docker/app@1", nil, "docker.io/library/app:1", "", ""},
		{"two slashes too many", "pkg://oci/app?tag=1", nil, "docker.io/library/app:1", "", ""},
		{"the name of the registry in capitals", "pkg:docker/GHCR.io/app@1", nil, "GHCR.io/app:1", "", ""}, // no route has that name

		{"BuildKit's own URI", "docker-image://docker.io/library/nginx:1.27@" + pinned.String(), nil, "docker.io/library/nginx:1.27", "", pinned},
		{"BuildKit's own URI, familiar", "docker-image://nginx", beside, "docker.io/library/nginx", "", pinned},
		{"BuildKit's own URI, in capitals", "Docker-Image://nginx", beside, "docker.io/library/nginx", "", pinned},
		{"BuildKit's own URI, without slashes", "docker-image:nginx:1", nil, "docker.io/library/nginx:1", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := parseMaterial(t, tc.uri, maps.Clone(tc.beside))
			if err != nil {
				t.Fatal(err)
			}
			if m.URI != tc.uri || m.Image.String() != tc.image || m.Platform != tc.platform || m.ImageDigest() != tc.d {
				t.Errorf("got the image %q for %q with the digest %q", m.Image, m.Platform, m.ImageDigest())
			}
		})
	}
}

func TestMaterialsThatAreNoImages(t *testing.T) {
	for name, uri := range map[string]string{
		"nothing":                     "",
		"a git repository":            "git+https://github.com/acme/app@refs/heads/main",
		"a file":                      "https://example.com/docker/nginx.tar",
		"a Debian package":            "pkg:deb/debian/curl@7.50.3-1?arch=i386",
		"a package that cannot be":    "pkg:deb/%zz?x",
		"a type that begins alike":    "pkg:dockerfile/nginx@1",
		"a type that is a name":       "pkg:generic/docker/nginx@1",
		"one blob of a registry":      "pkg:docker/acme/blob?ref_type=blob&digest=" + pinned.String(),
		"a scheme that begins alike":  "docker-image+blob://ghcr.io/acme/app@" + pinned.String(),
		"a scheme that is the type":   "docker:nginx",
		"a layout on disk":            "oci-layout://acme/app@" + pinned.String(),
		"a package URL without sense": "pkg:",
	} {
		t.Run(name, func(t *testing.T) {
			m, err := parseMaterial(t, uri, map[string]string{"sha256": pinned.Encoded(), "sha1": "anything at all"})
			if err != nil {
				t.Fatal(err)
			}
			if !m.Image.IsZero() || m.ImageDigest() != "" || m.Digest["sha256"] != pinned.Encoded() || m.Digest["sha1"] != "anything at all" {
				t.Errorf("got %+v", m)
			}
		})
	}
}

// TestMaterialsThatCannotBeRead: an image that was named and cannot be looked
// at must not pass for something else.
func TestMaterialsThatCannotBeRead(t *testing.T) {
	upper := "sha256:" + strings.ToUpper(pinned.Encoded())
	for _, tc := range []struct {
		name, uri string
		beside    map[string]string
		says      string
	}{
		{"another digest beside the version", "pkg:docker/app@" + pinned.String(), map[string]string{"sha256": another.Encoded()}, "another digest beside it"},
		{"another digest beside the qualifier", "pkg:docker/app@1?digest=" + pinned.String(), map[string]string{"sha256": another.Encoded()}, "another digest beside it"},
		{"another digest beside BuildKit's URI", "docker-image://app@" + pinned.String(), map[string]string{"sha256": another.Encoded()}, "another digest beside it"},
		{"two digests in the URI", "pkg:docker/app@" + pinned.String() + "?digest=" + another.String(), nil, "another digest beside it"},
		{"the same digest beside it, in capitals", "pkg:docker/app@" + pinned.String(), map[string]string{"sha256": strings.ToUpper(pinned.Encoded())}, "another digest beside it"},
		{"a short version", "pkg:docker/app@sha256%3A244fd47e07d10", nil, "not a digest"},
		{"a version in capitals", "pkg:docker/app@" + upper, nil, "not a digest"},
		{"a version that nobody computes", "pkg:docker/app@md5%3Ad41d8cd98f00b204e9800998ecf8427e", nil, "not a digest"},
		{"a short qualifier", "pkg:docker/app@1?digest=sha256:244fd47e07d10", nil, "not a digest"},
		{"a qualifier in capitals", "pkg:docker/app@1?digest=" + upper, nil, "not a digest"},
		{"a short digest beside it", "pkg:docker/app@1", map[string]string{"sha256": "244fd47e07d10"}, "not a digest"},
		{"a digest in capitals beside it", "docker-image://app", map[string]string{"sha256": strings.ToUpper(pinned.Encoded())}, "not a digest"},
		{"an empty digest beside it", "pkg:docker/app@1", map[string]string{"sha256": ""}, "not a digest"},
		{"a digest with its algorithm beside it", "pkg:docker/app@1", map[string]string{"sha256": pinned.String()}, "not a digest"},
		{"a short sha512 beside a sha256", "pkg:docker/app@1", map[string]string{"sha256": pinned.Encoded(), "sha512": pinned.Encoded()}, "not a digest"},
		{"a tag with a slash", "pkg:docker/app@1%2F2", nil, "not a tag"},
		{"a tag with a digest behind it", "pkg:docker/app?tag=1%40" + pinned.String(), nil, "not a tag"},
		{"a name with a digest behind it", "pkg:docker/app%40" + pinned.String(), nil, "contains an @"},
		{"a namespace with user info", "pkg:docker/user%40ghcr.io/app", nil, "contains an @"},
		{"a registry with user info", "pkg:docker/app?repository_url=https://user@ghcr.io", nil, "contains an @"},
		{"a name with a space", "pkg:docker/my%20app@1", nil, "or a space"},
		{"a name in capitals", "pkg:docker/Acme/App@1", nil, "not an image reference"},
		{"a dot segment", "pkg:docker/ghcr.io/../app@1", nil, "not an image reference"},
		{"a NUL", "pkg:docker/app%00@1", nil, "not an image reference"},
		{"a newline", "pkg:docker/app%0A@1", nil, "not an image reference"},
		{"another script", "pkg:docker/%D0%B0pp@1", nil, "not an image reference"},
		{"a tag in the name and another", "pkg:docker/app%3A1@2", nil, "not an image reference"},
		{"no name", "pkg:docker/", nil, "purl is missing name"},
		{"no name and no slash", "pkg:oci", nil, "purl is missing type or name"},
		{"a version and no name", "pkg:docker/@1", nil, "purl is missing name"},
		{"half an escape", "pkg:docker/app%2@1", nil, "the package URL"},
		{"a qualifier twice", "pkg:docker/app@1?digest=" + pinned.String() + "&DIGEST=" + another.String(), nil, "the package URL"},
		{"a scheme in the registry", "pkg:docker/app?repository_url=ftp:%2F%2Fghcr.io", nil, "not an image reference"},
		{"BuildKit's URI of nothing", "docker-image://", nil, "without its name"},
		{"BuildKit's scheme of nothing", "docker-image:", map[string]string{"sha256": pinned.Encoded()}, "without its name"},
		{"BuildKit's URI with a scheme", "docker-image://https://ghcr.io/app", nil, "not an image reference"},
		{"BuildKit's URI in capitals", "docker-image://ghcr.io/App", nil, "not an image reference"},
		{"BuildKit's URI with a short digest", "docker-image://app@sha256:244fd47e07d10", nil, "not an image reference"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := parseMaterial(t, tc.uri, tc.beside)
			if !errors.Is(err, provenance.ErrProvenance) {
				t.Fatalf("got %+v, %v", m, err)
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("says %q, not %q", err, tc.says)
			}
		})
	}
}

// FuzzMaterial: what names an image is one or an error, whatever the URI.
func FuzzMaterial(f *testing.F) {
	for _, uri := range []string{
		"docker-image://docker.io/library/nginx:1@" + pinned.String(),
		"pkg:docker/127.0.0.1%3A5917/acme/base@2?platform=linux%2Famd64&digest=" + pinned.String(),
		"pkg:oci/debian@sha256%3A" + pinned.Encoded() + "?repository_url=docker.io/library/debian&arch=amd64&tag=latest",
		"pkg:docker/customer/image@" + another.String() + "?repository_url=https:%2F%2Fgcr.io/",
		"PKG://Docker/app%3A1@2#sub/path", "pkg:docker/blob?ref_type=blob", "pkg:oci", "docker-image:", "pkg:docker/@1", "pkg:deb/debian/curl@7",
	} {
		f.Add(uri, pinned.Encoded())
		f.Add(uri, "")
	}
	f.Fuzz(func(t *testing.T, uri, beside string) {
		m, err := parseMaterial(t, uri, map[string]string{"sha256": beside})
		if err != nil {
			if !errors.Is(err, provenance.ErrProvenance) || len(err.Error()) > 20000 {
				t.Fatal(err)
			}
			return
		}
		checkMaterial(t, m)
		if !m.Image.IsZero() && m.Digest["sha256"] != beside {
			t.Fatalf("%q changed the digest beside it from %q to %q", uri, beside, m.Digest["sha256"])
		}
	})
}
