// Package lineage says which images an image was built from, and how that is
// known.
//
// An edge is proven when the parent's diff IDs are the first of the child's. A
// diff ID is the digest of an uncompressed layer, as the image's config lists
// it: the config's own word, which the registry does not check. It is enough
// all the same, because container runtimes compare each layer with its diff ID
// when they unpack it: an image that lies about them does not run. What runs
// has the parent's files at the bottom. It may still have replaced them all in
// the layers above, so a proven parent says what an image rests on and nothing
// about what was put on top.
//
// The package must never take an empty list of layers for a proof, and must
// never lose a parent that somebody names: what cannot be compared is an edge
// with an error.
package lineage

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/oci"
)

// Known is how an edge is known.
type Known string

// From the weakest to the strongest.
const (
	Claimed  Known = "claimed"  // the image, or an unsigned provenance, says so
	Attested Known = "attested" // a provenance says so that a signer vouches for
	Proven   Known = "proven"   // the layers say so
)

// Where a candidate comes from.
const (
	ViaMaterial   = "material"   // an image among the materials of a provenance
	ViaAnnotation = "annotation" // org.opencontainers.image.base.*, as annotation or label
	ViaLayers     = "layers"     // an image with the same first layers that was seen before
)

// Where in the build the parent was used.
const (
	StageFinal = "final" // the image stands on it
	StageBuild = "build" // something in the build used it
)

// Candidate is an image that something names as a parent.
type Candidate struct {
	// Reference has no digest. It is zero when a base is named by nothing but
	// its digest, or by a name that cannot be read.
	Reference oci.Reference
	Digest    digest.Digest // "" when only the name is known
	Known     Known
	Via       string
	Platform  string // that the build asked for, or ""

	// base says that an annotation or label names a material as the base.
	base bool
}

// maxName bounds the name of a base, in bytes.
const maxName = 1024

// Candidates lists the images that the provenance and the image itself name,
// in their order and each once. Images without any name or digest are left out,
// as is "scratch", which is no image.
func Candidates(build *provenance.Build, labels map[string]string, annotations ...map[string]string) []Candidate {
	var list []Candidate
	if build != nil {
		known := Claimed
		if build.By.Verified() {
			known = Attested
		}
		for _, m := range build.Materials {
			if m.Image.IsZero() {
				continue
			}
			list = merge(list, Candidate{
				Reference: m.Image.WithDigest(""), Digest: m.ImageDigest(), Known: known, Via: ViaMaterial, Platform: m.Platform,
			})
		}
	}
	for _, claims := range slices.Concat(annotations, []map[string]string{labels}) {
		if c, ok := base(claims); ok {
			list = merge(list, c)
		}
	}
	return once(list)
}

// base reads the keys that the image specification has for it.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md
func base(claims map[string]string) (Candidate, bool) {
	c := Candidate{Known: Claimed, Via: ViaAnnotation, base: true}
	if d, err := oci.ParseDigest(claims[ocispec.AnnotationBaseImageDigest]); err == nil {
		c.Digest = d
	}
	if name := claims[ocispec.AnnotationBaseImageName]; len(name) <= maxName && (name != "scratch" || c.Digest != "") {
		if ref, err := oci.ParseReference(name); err == nil {
			if c.Digest == "" {
				c.Digest = ref.Digest()
			}
			c.Reference = ref.WithDigest("")
		}
	}
	return c, !c.Reference.IsZero() || c.Digest != ""
}

// merge adds a candidate unless it is in the list under the same digest, or
// under the same name with a digest missing on either side. What is in the list
// already is at least as well known, so it stays and only learns what it lacks.
func merge(list []Candidate, c Candidate) []Candidate {
	merged := false
	for i := range list {
		have := &list[i]
		same := have.Digest == c.Digest && c.Digest != ""
		if have.Digest == "" || c.Digest == "" {
			same = have.Reference == c.Reference
		}
		if !same || (have.Platform != c.Platform && c.Platform != "" && have.Platform != "") {
			continue
		}
		if have.Digest == "" && c.Digest != "" && c.Known != have.Known {
			// A weaker word must not choose the digest for a stronger one.
			continue
		}
		have.base = have.base || c.base
		if have.Reference.IsZero() {
			have.Reference = c.Reference
		}
		if have.Digest == "" {
			have.Digest = c.Digest
		}
		if have.Platform == "" {
			have.Platform = c.Platform
		}
		merged = true
	}
	if merged {
		return list
	}
	return append(list, c)
}

// once keeps the first of candidates that became equal by what they learned.
func once(list []Candidate) []Candidate {
	type image struct {
		reference oci.Reference
		digest    digest.Digest
		platform  string
	}
	seen := map[image]bool{}
	return slices.DeleteFunc(list, func(c Candidate) bool {
		same := image{c.Reference, c.Digest, c.Platform}
		again := seen[same]
		seen[same] = true
		return again
	})
}

// Resolved is a candidate whose image was looked at.
type Resolved struct {
	Candidate
	DiffIDs []digest.Digest // of its layers, from the bottom
	Err     error           // why it could not be looked at, or not judged
}

// Edge is a parent as it goes into the evidence.
type Edge struct {
	Candidate        // its Known may have become Proven
	Stage     string // StageFinal or StageBuild
	Err       string // what is wrong with the edge, or ""
}

// Edges compares each parent's layers with the child's; there is one edge for
// each, in their order.
//
// Parents whose layers are the child's first are proven, and those with the
// most such layers are what its final stage stands on. A base that the image
// names and that its layers contradict stays a claim with an error. Materials
// that are no such prefix were used in some stage of the build, which nothing
// contradicts.
func Edges(child []digest.Digest, resolved []Resolved) []Edge {
	longest, materials := 0, 0
	for _, r := range resolved {
		if proves(child, r) {
			longest = max(longest, len(r.DiffIDs))
		}
		if r.Via == ViaMaterial {
			materials++
		}
	}
	edges := make([]Edge, 0, len(resolved))
	for _, r := range resolved {
		e := Edge{Candidate: r.Candidate, Stage: StageBuild}
		saysBase := r.base || r.Via == ViaAnnotation || r.Via == ViaLayers
		switch {
		case r.Err != nil:
			e.Err = r.Err.Error()
			if saysBase || (materials == 1 && longest == 0) {
				e.Stage = StageFinal
			}
		case proves(child, r):
			e.Known = Proven
			if len(r.DiffIDs) == longest {
				e.Stage = StageFinal
			}
		case saysBase:
			e.Stage = StageFinal
			e.Err = contradiction(r)
		}
		edges = append(edges, e)
	}
	return edges
}

// proves says whether the parent's layers are the child's first.
func proves(child []digest.Digest, r Resolved) bool {
	n := len(r.DiffIDs)
	return r.Err == nil && n > 0 && n <= len(child) && slices.Equal(child[:n], r.DiffIDs) && !slices.Contains(r.DiffIDs, "")
}

func contradiction(r Resolved) string {
	name := r.Reference.String()
	if r.Digest != "" {
		name = r.Reference.WithDigest(r.Digest).String()
	}
	if r.Reference.IsZero() {
		name = r.Digest.String()
	}
	if r.Via == ViaLayers && !r.base {
		return fmt.Sprintf("%s was taken for the base, but its layers are not the first layers of this image", name)
	}
	if len(r.DiffIDs) == 0 {
		return fmt.Sprintf("the annotation names %s as the base, but it has no layers to compare", name)
	}
	return fmt.Sprintf("the annotation names %s as the base, but its layers are not the first layers of this image", name)
}
