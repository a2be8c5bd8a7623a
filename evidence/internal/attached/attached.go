// Package attached finds the small blobs that other manifests attach to a
// digest: the layers of its referrers and of the manifests under cosign's tags.
//
// It reads what a registry lists and believes none of it: who signed a blob,
// and about which digest, is for the caller to check. It bounds how many blobs
// and how many bytes a stranger can make TrustGate read.
package attached

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/oci"
)

const (
	// inFlight bounds the requests that one collector has under way.
	inFlight = 8

	// budget bounds the bytes of all blobs of one search, in multiples of
	// limits.attestation.
	budget = 4
)

// Query says what to look for.
type Query struct {
	Collector string   // for problems
	Tags      []string // besides the referrers
	// Artifact says whether a referrer of this type can carry what is looked for.
	Artifact func(artifactType string) bool
	// Layer says whether a layer of this media type is what is looked for.
	Layer func(mediaType string) bool
}

// Tags are where cosign puts what it attaches to d: a name for each suffix. The
// names of other digests than sha256 are longer than a tag may be.
//
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
func Tags(d digest.Digest, suffixes ...string) []string {
	if d.Algorithm() != digest.SHA256 {
		return nil
	}
	tags := make([]string, len(suffixes))
	for i, suffix := range suffixes {
		tags[i] = "sha256-" + d.Encoded() + suffix
	}
	return tags
}

// Item is one blob that was found. Err says why its bytes are not there when
// asking again would not help.
type Item struct {
	Layer    oci.Descriptor
	Raw      []byte
	Location string
	Err      error
}

// Holder is a manifest whose layers are looked at, and how people call the
// place where it was found.
type Holder struct {
	Manifest *oci.Manifest
	Location string
}

// Find looks through the referrers of the subject and the tags of the query,
// and returns the blobs in the registry's order, tags first. What could not be
// had is a Problem.
func Find(ctx context.Context, subject evidence.Subject, q Query) ([]Item, []evidence.Problem) {
	var problems []evidence.Problem
	problem := func(err error) { problems = append(problems, evidence.NewProblem(q.Collector, err)) }

	// The list of referrers and the tags are one round trip, the referrers'
	// manifests the second, the blobs the third.
	var referrers []oci.Descriptor
	asked := make([]func(context.Context) (*oci.Manifest, error), 0, len(q.Tags)+1)
	for _, tag := range q.Tags {
		asked = append(asked, func(ctx context.Context) (*oci.Manifest, error) {
			m, err := subject.Source.Tagged(ctx, tag)
			if err != nil {
				err = fmt.Errorf("fetching the tag %s: %w", tag, err)
			}
			return m, err
		})
	}
	asked = append(asked, func(ctx context.Context) (*oci.Manifest, error) {
		list, err := subject.Source.Referrers(ctx, subject.Manifest.Digest)
		if err != nil {
			err = fmt.Errorf("listing the referrers of %s: %w", subject.Manifest.Digest, err)
		}
		referrers = list
		return nil, err
	})
	var holders []Holder
	for i, a := range each(ctx, asked, func(ctx context.Context, ask func(context.Context) (*oci.Manifest, error)) (*oci.Manifest, error) {
		return ask(ctx)
	}) {
		switch {
		case errors.Is(a.err, oci.ErrNotFound):
		case a.err != nil:
			problem(a.err)
		case a.value != nil:
			holders = append(holders, Holder{a.value, "tag " + q.Tags[i]})
		}
	}

	referrers = slices.DeleteFunc(slices.Clone(referrers), func(d oci.Descriptor) bool {
		return !q.Artifact(d.ArtifactType) && !saysNothing(d.ArtifactType)
	})
	if n := subject.Limits.Referrers; len(referrers) > n {
		problem(fmt.Errorf("%s has %d referrers to look at, more than limits.referrers (%d)", subject.Manifest.Digest, len(referrers), n))
		referrers = referrers[:n]
	}
	for i, a := range each(ctx, referrers, func(ctx context.Context, d oci.Descriptor) (*oci.Manifest, error) {
		return subject.Source.Manifest(ctx, d.Digest)
	}) {
		switch {
		case errors.Is(a.err, oci.ErrNotFound):
		case a.err != nil:
			problem(fmt.Errorf("fetching the referrer %s: %w", referrers[i].Digest, a.err))
		default:
			holders = append(holders, Holder{a.value, "referrer " + referrers[i].Digest.String()})
		}
	}

	items, more := Read(ctx, subject, q, holders)
	return items, append(problems, more...)
}

// Read fetches the layers of the holders that the query looks for.
func Read(ctx context.Context, subject evidence.Subject, q Query, holders []Holder) ([]Item, []evidence.Problem) {
	var items []Item
	var problems []evidence.Problem
	for _, h := range holders {
		for _, layer := range h.Manifest.Layers {
			if q.Layer(layer.MediaType) {
				items = append(items, Item{Layer: layer, Location: h.Location + ", layer " + layer.Digest.String()})
			}
		}
	}
	if n := subject.Limits.Signatures; len(items) > n {
		// The rest could hold the one that matters, so this is no absence.
		problems = append(problems, evidence.Problem{Collector: q.Collector, Message: fmt.Sprintf(
			"%s has %d signatures or attestations attached, more than limits.signatures (%d)", subject.Manifest.Digest, len(items), n)})
		items = items[:n]
	}

	// cosign attaches one payload many times, with a signature each.
	// The size is part of what is asked for: one who lists another's blob with a
	// wrong size spoils only their own entry.
	type content struct {
		digest digest.Digest
		size   int64
	}
	var wanted []oci.Descriptor
	at := map[content]int{}
	left := budget * subject.Limits.Attestation
	for i := range items {
		layer := items[i].Layer
		if _, ok := at[content{layer.Digest, layer.Size}]; ok {
			continue
		}
		switch {
		case layer.Size > subject.Limits.Attestation:
			items[i].Err = fmt.Errorf("it has %d bytes, more than limits.attestation (%d)", layer.Size, subject.Limits.Attestation)
		case layer.Size > left:
			problems = append(problems, evidence.Problem{Collector: q.Collector, Message: fmt.Sprintf(
				"the signatures and attestations attached to %s have more bytes together than %d times limits.attestation", subject.Manifest.Digest, budget)})
			items[i].Err = errors.New("it was not read, since the ones before it are too long")
		default:
			left -= layer.Size
			at[content{layer.Digest, layer.Size}] = len(wanted)
			wanted = append(wanted, layer)
		}
	}
	fetched := each(ctx, wanted, func(ctx context.Context, d oci.Descriptor) ([]byte, error) {
		return subject.Source.Blob(ctx, d, d.Size)
	})

	kept := items[:0]
	reported := map[digest.Digest]bool{}
	for _, item := range items {
		i, ok := at[content{item.Layer.Digest, item.Layer.Size}]
		if item.Err == nil && ok {
			item.Raw = fetched[i].value
			switch err := fetched[i].err; {
			case errors.Is(err, oci.ErrNotFound):
				item.Err = errors.New("the registry lists it and does not have it")
			case err != nil:
				if !reported[item.Layer.Digest] {
					reported[item.Layer.Digest] = true
					problems = append(problems, evidence.NewProblem(q.Collector, fmt.Errorf("fetching %s: %w", item.Location, err)))
				}
				continue
			}
		}
		kept = append(kept, item)
	}
	return kept, problems
}

// saysNothing tells the artifact types that a registry reports when it does
// not know the field, from the config's media type, or not at all.
func saysNothing(artifactType string) bool {
	switch artifactType {
	case "", ocispec.MediaTypeEmptyJSON, ocispec.MediaTypeImageConfig, oci.MediaTypeDockerConfig:
		return true
	}
	return strings.HasPrefix(artifactType, "application/octet-stream")
}

type answer[R any] struct {
	value R
	err   error
}

// each runs do over the items, a few at a time, and returns the answers in
// order. A panic in one surfaces here, once all have ended.
func each[T, R any](ctx context.Context, items []T, do func(context.Context, T) (R, error)) []answer[R] {
	answers := make([]answer[R], len(items))
	slots := make(chan struct{}, inFlight)
	var wg sync.WaitGroup
	var once sync.Once
	var panicked any
	for i, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() {
				<-slots
				if p := recover(); p != nil {
					once.Do(func() { panicked = p })
				}
			}()
			if err := ctx.Err(); err != nil {
				answers[i].err = err
				return
			}
			answers[i].value, answers[i].err = do(ctx, item)
		})
	}
	wg.Wait()
	if panicked != nil {
		panic(panicked)
	}
	return answers
}
