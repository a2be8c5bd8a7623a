package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/attest"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// Summaries is how the gate's verdicts are signed, for verifiers that do not
// know the gate. Without a key none are.
type Summaries struct {
	Key      *attest.Key
	Verifier string // who judges, as a URI
	Version  string
}

// summaries lists a signed summary of each verdict that stands on the manifest,
// one for every tag under which it was judged. They are made when somebody asks
// for them, and are the same whenever that is.
//
// Where the rules look at the client there are none: a summary would carry one
// client's verdict to another.
func (g *Gate) summaries(ctx context.Context, repository oci.Reference, d digest.Digest) ([]oci.Descriptor, error) {
	if g.Summaries.Key == nil || g.readsClient() {
		return nil, nil
	}
	recorded, err := g.Ledger.Served(ctx, repository.Name(), d)
	if err != nil {
		return nil, fmt.Errorf("looking up the verdicts on %s: %w", d, err)
	}
	var list []oci.Descriptor
	var told []string // tags; the newest judgement of each comes first
	for _, j := range recorded {
		if !g.inForce(j) || slices.Contains(told, j.Tag) {
			continue
		}
		told = append(told, j.Tag) // an older one does not come back when this has expired
		if !within(g.Now(), j.JudgedAt, j.ExpiresAt) {
			continue
		}
		described, err := g.summarize(ctx, repository, j)
		if err != nil {
			return nil, err
		}
		list = append(list, described)
	}
	return list, nil
}

// inForce says whether the judgement was made under today's rules and trust.
func (g *Gate) inForce(j ledger.Judgement) bool {
	return j.PolicyRevision == g.Judge.Revision() && j.TrustRevision == g.Trust.Revision
}

// summarized is a summary that was put into the cache, and how the cache stood
// then: nobody else has it, should it be evicted.
type summarized struct {
	descriptor oci.Descriptor
	removals   uint64
}

func (g *Gate) summarize(ctx context.Context, repository oci.Reference, j ledger.Judgement) (oci.Descriptor, error) {
	removals := g.Cache.Removals()
	if known, ok := g.summarized.Get(j.ID); ok && known.removals == removals {
		return known.descriptor, nil
	}
	fail := func(err error) (oci.Descriptor, error) {
		return oci.Descriptor{}, fmt.Errorf("summarizing decision %s: %w", j.ID, err)
	}
	raw, err := g.Cache.Bytes(ctx, j.Digest, manifestLimit)
	if err != nil {
		return fail(err)
	}
	subject, err := oci.ParseManifest(raw, "", j.Digest)
	if err != nil {
		return fail(err)
	}
	ref := repository.WithDigest(j.Digest)
	if j.Tag != "" {
		if ref, err = repository.WithTag(j.Tag); err != nil {
			return fail(err)
		}
		ref = ref.WithDigest(j.Digest)
	}
	a, err := restore(j, node{ref: ref}, subject)
	if err != nil {
		return fail(err)
	}
	artifact, err := g.Summaries.Key.Attest(ctx, g.summaryOf(a).Statement())
	if err != nil {
		return fail(err)
	}
	if err := g.know(ctx, repository, artifact.Manifest); err != nil {
		return fail(err)
	}
	for d, content := range map[digest.Digest][]byte{
		artifact.Manifest.Config.Digest:    artifact.Config,
		artifact.Manifest.Layers[0].Digest: artifact.Bundle,
		artifact.Manifest.Digest:           artifact.Manifest.Raw,
	} {
		if err := g.Cache.PutBytes(ctx, d, content); err != nil {
			return fail(err)
		}
	}
	described := artifact.Manifest.Descriptor()
	g.summarized.Add(j.ID, summarized{described, removals})
	return described, nil
}

func (g *Gate) summaryOf(a *Admission) attest.Summary {
	s := attest.Summary{
		Subject: a.Manifest.Descriptor(), Resource: a.Reference.String(),
		Verifier: g.Summaries.Verifier, Version: g.Summaries.Version,
		Time: a.Verdict.JudgedAt, Decision: a.Verdict.ID, Input: a.Verdict.Input,
		Passed: passes(a.Verdict.BeforeMode, a.Verdict.Action), Level: buildLevel(a.Build),
	}
	if a.Manifest.Kind == oci.KindIndex {
		s.Passed, s.Level = indexPasses(a)
	}
	// The revision is that of the rules, as a digest.
	if revision, err := oci.ParseDigest(g.Judge.Revision()); err == nil {
		s.Policy = revision
	}
	for _, p := range a.Parents {
		if s.Parents == nil {
			s.Parents = map[string]int{}
		}
		s.Parents[buildLevel(p.Build)]++
	}
	return s
}

func passes(beforeMode, action policy.Action) bool {
	return policy.Stricter(policy.Stricter(policy.Serve, beforeMode), action) != policy.Block
}

// indexPasses speaks for every image that the index lists: whoever trusts the
// summary may run any of them. One that was not judged fails it, and the lowest
// level counts.
func indexPasses(a *Admission) (passed bool, level string) {
	images := 0
	for _, d := range a.Manifest.Manifests {
		if _, is := oci.IsAttestationManifest(d); !is {
			images++
		}
	}
	passed, level = images == len(a.Children), attest.Level2
	for _, c := range a.Children {
		passed = passed && passes(c.Before, c.Action)
		level = min(level, c.Level) // they sort as they rank
	}
	return passed, level
}

// buildLevel is what the evidence shows of the build. Level 3 is a property of
// the builder that no provenance proves, so it is never claimed.
func buildLevel(b *policy.Build) string {
	switch {
	case b == nil || !b.Verified:
		return attest.Level0
	case !b.Trusted:
		return attest.Level1
	}
	return attest.Level2
}

// withSummaries adds the gate's own referrers to the upstream's.
func (g *Gate) withSummaries(ctx context.Context, repository oci.Reference, d digest.Digest, artifactType string, list []oci.Descriptor) ([]oci.Descriptor, error) {
	own, err := g.summaries(ctx, repository, d)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return nil, err
	}
	for _, s := range own {
		if artifactType == "" || s.ArtifactType == artifactType {
			list = append(list, s)
		}
	}
	return list, nil
}
