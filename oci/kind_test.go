package oci_test

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/oci"
)

const (
	cosignLayer = "application/vnd.dev.cosign.simplesigning.v1+json"
	inToto      = "application/vnd.in-toto+json"
	bundle      = "application/vnd.dev.sigstore.bundle.v0.3+json"
	emptyConfig = ocispec.MediaTypeEmptyJSON
	imageConfig = ocispec.MediaTypeImageConfig
	helmConfig  = "application/vnd.cncf.helm.config.v1+json"
	tarball     = ocispec.MediaTypeImageLayerGzip
)

func TestKind(t *testing.T) {
	for name, tc := range map[string]struct {
		config       string
		artifactType string
		layers       []string
		kind         oci.Kind
		is           string // the artifact type that referrers lists show
	}{
		"an image":                                    {imageConfig, "", []string{tarball, tarball}, oci.KindImage, ""},
		"a Docker image":                              {oci.MediaTypeDockerConfig, "", []string{"application/vnd.docker.image.rootfs.diff.tar.gzip"}, oci.KindImage, ""},
		"an image of nothing":                         {imageConfig, "", nil, oci.KindImage, ""},
		"an image that calls itself a signature":      {imageConfig, "application/vnd.dev.cosign.artifact.sig.v1+json", []string{tarball}, oci.KindImage, "application/vnd.dev.cosign.artifact.sig.v1+json"},
		"an image that calls itself a bundle":         {imageConfig, bundle, []string{tarball}, oci.KindImage, bundle},
		"an image with one layer of evidence":         {imageConfig, "", []string{tarball, inToto}, oci.KindImage, ""},
		"an image with evidence at the bottom":        {imageConfig, "", []string{inToto, tarball}, oci.KindImage, ""},
		"an image with a layer nobody knows":          {imageConfig, "", []string{"application/octet-stream"}, oci.KindImage, ""},
		"an image of evidence in capitals":            {imageConfig, "", []string{strings.ToUpper(inToto)}, oci.KindImage, ""},
		"an image of evidence with a parameter":       {imageConfig, "", []string{inToto + "; charset=utf-8"}, oci.KindImage, ""},
		"an image of evidence that is longer":         {imageConfig, "", []string{inToto + "+gzip"}, oci.KindImage, ""},
		"a cosign signature with its image config":    {imageConfig, "", []string{cosignLayer, cosignLayer}, oci.KindEvidence, imageConfig},
		"an attestation with a Docker config":         {oci.MediaTypeDockerConfig, "", []string{"application/vnd.dsse.envelope.v1+json"}, oci.KindEvidence, oci.MediaTypeDockerConfig},
		"BuildKit's attestation manifest":             {imageConfig, "application/vnd.docker.attestation.manifest.v1+json", []string{inToto, inToto}, oci.KindEvidence, "application/vnd.docker.attestation.manifest.v1+json"},
		"a sigstore bundle":                           {emptyConfig, bundle, []string{bundle}, oci.KindEvidence, bundle},
		"a sigstore bundle of version 0.1":            {emptyConfig, "", []string{"application/vnd.dev.sigstore.bundle+json;version=0.1"}, oci.KindEvidence, emptyConfig},
		"a notation signature":                        {"application/vnd.cncf.notary.signature", "", []string{"application/jose+json"}, oci.KindEvidence, "application/vnd.cncf.notary.signature"},
		"a bill of materials":                         {emptyConfig, "", []string{"application/spdx+json"}, oci.KindEvidence, emptyConfig},
		"a chart":                                     {helmConfig, "", []string{"application/vnd.cncf.helm.chart.content.v1.tar+gzip"}, oci.KindArtifact, helmConfig},
		"a chart with its provenance":                 {helmConfig, "", []string{"application/vnd.cncf.helm.chart.content.v1.tar+gzip", "application/vnd.cncf.helm.chart.provenance.v1.prov"}, oci.KindArtifact, helmConfig},
		"an artifact of image layers":                 {emptyConfig, "example/type", []string{tarball}, oci.KindArtifact, "example/type"},
		"an artifact that calls itself a signature":   {emptyConfig, cosignLayer, []string{tarball}, oci.KindArtifact, cosignLayer},
		"an artifact of nothing":                      {emptyConfig, "", nil, oci.KindArtifact, emptyConfig},
		"an artifact with one layer of evidence":      {emptyConfig, "", []string{inToto, "application/wasm"}, oci.KindArtifact, emptyConfig},
		"a config that only looks like an image's":    {imageConfig + "+x", "", []string{tarball}, oci.KindArtifact, imageConfig + "+x"},
		"a config of evidence and layers of an image": {inToto, "", []string{tarball}, oci.KindArtifact, inToto},
	} {
		t.Run(name, func(t *testing.T) {
			var descriptors []string
			for _, mediaType := range tc.layers {
				descriptors = append(descriptors, descriptor(mediaType))
			}
			members := []string{`"config":` + descriptor(tc.config), list("layers", descriptors...)}
			if tc.artifactType != "" {
				members = append(members, `"artifactType":"`+tc.artifactType+`"`)
			}
			m, err := oci.ParseManifest([]byte(document(oci.MediaTypeImageManifest, members...)), "", "")
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind != tc.kind || m.ArtifactType != tc.is {
				t.Errorf("got an %s of type %q, want an %s of type %q", m.Kind, m.ArtifactType, tc.kind, tc.is)
			}
		})
	}
}

func TestIsForeignLayer(t *testing.T) {
	for name, tc := range map[string]struct {
		layer oci.Descriptor
		want  bool
	}{
		"a layer":                          {oci.Descriptor{MediaType: tarball}, false},
		"a Docker layer":                   {oci.Descriptor{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip"}, false},
		"a Docker foreign layer":           {oci.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, true},
		"a non-distributable layer":        {oci.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}, true},
		"an ordinary layer with an URL":    {oci.Descriptor{MediaType: tarball, URLs: []string{"https://evil.example/layer"}}, true},
		"an ordinary layer with no URL":    {oci.Descriptor{MediaType: tarball, URLs: []string{}}, false},
		"a foreign layer without its URLs": {oci.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar"}, true},
	} {
		if got := oci.IsForeignLayer(tc.layer); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestIsAttestationManifest(t *testing.T) {
	const kind, of = "vnd.docker.reference.type", "vnd.docker.reference.digest"
	for name, tc := range map[string]struct {
		annotations map[string]string
		subject     string
		is          bool
	}{
		"marked":                 {map[string]string{kind: "attestation-manifest", of: emptySHA256}, emptySHA256, true},
		"marked for nothing":     {map[string]string{kind: "attestation-manifest"}, "", true},
		"marked as another kind": {map[string]string{kind: "image", of: emptySHA256}, "", false},
		"without the kind":       {map[string]string{of: emptySHA256}, "", false},
		"without annotations":    {nil, "", false},
	} {
		d := oci.Descriptor{Annotations: tc.annotations, Platform: &oci.Platform{OS: "unknown", Architecture: "unknown"}}
		if subject, is := oci.IsAttestationManifest(d); subject != tc.subject || is != tc.is {
			t.Errorf("%s: %q, %v", name, subject, is)
		}
	}
}

func TestFormatPlatform(t *testing.T) {
	for _, tc := range []struct {
		platform *oci.Platform
		want     string
	}{
		{nil, ""},
		{&oci.Platform{}, ""},
		{&oci.Platform{Architecture: "amd64"}, ""},
		{&oci.Platform{OS: "linux", Architecture: "amd64"}, "linux/amd64"},
		{&oci.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, "linux/arm64/v8"},
		{&oci.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.1"}, "windows/amd64"},
	} {
		if got := oci.FormatPlatform(tc.platform); got != tc.want {
			t.Errorf("%+v is written %q", tc.platform, got)
		}
	}
}
