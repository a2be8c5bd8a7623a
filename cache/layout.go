package cache

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// The paths below are distribution's storage layout, version 2, as a storage
// driver sees them. A path is only ever built from a digest that oci.ParseDigest
// accepted, a name that checkName did and a tag that checkTag did, so no
// foreign text can climb out of the folder.
//
// https://github.com/distribution/distribution/blob/v3.1.2/registry/storage/paths.go
const (
	layoutRoot       = "/docker/registry/v2"
	blobsRoot        = layoutRoot + "/blobs"
	repositoriesRoot = layoutRoot + "/repositories"
)

// blobDataPath is where the bytes of d are.
func blobDataPath(d digest.Digest) string {
	hex := d.Encoded()
	return blobsRoot + "/" + d.Algorithm().String() + "/" + hex[:2] + "/" + hex + "/data"
}

// layerLinkPath says that the repository has the blob d.
func layerLinkPath(name string, d digest.Digest) string {
	return repositoriesRoot + "/" + name + "/_layers/" + digestPath(d) + "/link"
}

// revisionLinkPath says that the repository has the manifest d.
func revisionLinkPath(name string, d digest.Digest) string {
	return repositoriesRoot + "/" + name + "/_manifests/revisions/" + digestPath(d) + "/link"
}

// tagCurrentPath says what the tag means now.
func tagCurrentPath(name, tag string) string {
	return repositoriesRoot + "/" + name + "/_manifests/tags/" + tag + "/current/link"
}

// tagIndexPath says that the tag meant d at some time.
func tagIndexPath(name, tag string, d digest.Digest) string {
	return repositoriesRoot + "/" + name + "/_manifests/tags/" + tag + "/index/" + digestPath(d) + "/link"
}

func digestPath(d digest.Digest) string { return d.Algorithm().String() + "/" + d.Encoded() }

func checkName(name string) error {
	if _, err := reference.WithName(name); err != nil {
		return fmt.Errorf("%q is not a repository name: %w", name, err)
	}
	return nil
}

func checkTag(tag string) error {
	if reference.TagRegexp.FindString(tag) != tag {
		return fmt.Errorf("%q is not a tag", tag)
	}
	return nil
}

// RepositoryName is the name under which the cache files the repository of ref:
// the registry and the repository, in the letters that distribution allows. The
// registry is written in lower case, its port after "_" and an IPv6 address in
// full, so that two registries never share a name:
//
//	127.0.0.1:5000/app → 127.0.0.1_5000/app
//	[::1]:5000/app     → 0000_0000_0000_0000_0000_0000_0000_0001_5000/app
func RepositoryName(ref oci.Reference) string {
	registry := strings.ToLower(ref.Registry())
	if rest, ok := strings.CutPrefix(registry, "["); ok {
		address, port, _ := strings.Cut(rest, "]")
		if parsed, err := netip.ParseAddr(address); err == nil {
			address = parsed.StringExpanded()
		}
		registry = address + port
	}
	return strings.ReplaceAll(registry, ":", "_") + "/" + ref.Repository()
}

// repositoryReference is the repository that RepositoryName filed under the
// name. An IPv6 address comes back in its shortest form.
func repositoryReference(name string) (oci.Reference, error) {
	registry, repository, _ := strings.Cut(name, "/")
	// No name of a host has an underscore, and no IPv4 address.
	parts := strings.Split(registry, "_")
	switch {
	case len(parts) >= 8:
		address, err := netip.ParseAddr(strings.Join(parts[:8], ":"))
		if err != nil {
			return oci.Reference{}, fmt.Errorf("%q is not the name of a repository: %w", name, err)
		}
		registry = strings.Join(append([]string{"[" + address.String() + "]"}, parts[8:]...), ":")
	case len(parts) > 1:
		registry = strings.Join(parts, ":")
	}
	return oci.NewReference(registry, repository)
}
