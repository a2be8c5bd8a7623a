package evidence_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

func vouch(name string) evidence.Voucher {
	return evidence.Vouch(seal.Key{}, evidence.Signer{Name: name})
}

func TestVoucher(t *testing.T) {
	if (evidence.Voucher{}).Verified() {
		t.Error("the zero Voucher vouches")
	}
	if v := vouch("ci"); !v.Verified() || v.Signer().Name != "ci" {
		t.Errorf("got %+v", v)
	}
}

func TestMatches(t *testing.T) {
	const d1 = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	const d2 = "@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	for _, tc := range []struct {
		binds         evidence.Binding
		named, pulled string
		want          string
	}{
		{evidence.BindsDigest, "", "example.com/app:1", "nil"},
		{evidence.BindsDigest, "example.com/app:2", "example.com/app:1", "nil"},

		{evidence.BindsRepository, "example.com/app", "example.com/app:1", "true"},
		{evidence.BindsRepository, "example.com/app", "example.com/app" + d1, "true"},
		{evidence.BindsRepository, "example.com/app", "example.com/app2:1", "false"},
		{evidence.BindsRepository, "example.com/app", "example.com/team/app:1", "false"},
		{evidence.BindsRepository, "example.com/app", "example.com:5000/app:1", "false"},
		{evidence.BindsRepository, "index.docker.io/library/nginx", "nginx", "true"},
		{evidence.BindsRepository, "nginx", "docker.io/library/nginx:1", "true"},
		{evidence.BindsRepository, "", "example.com/app:1", "false"},
		{evidence.BindsRepository, "not a name", "example.com/app:1", "false"},

		{evidence.BindsTag, "example.com/app:1", "example.com/app:1", "true"},
		{evidence.BindsTag, "example.com/app:1", "example.com/app:1" + d1, "true"},
		{evidence.BindsTag, "example.com/app:1", "example.com/app:2", "false"},
		{evidence.BindsTag, "example.com/app:1", "example.com/app:2" + d1, "false"},
		{evidence.BindsTag, "example.com/app:1", "example.com/other:1", "false"},
		{evidence.BindsTag, "example.com/app", "example.com/app:latest", "false"},
		{evidence.BindsTag, "example.com/app:1", "example.com/app" + d1, "true"},
		{evidence.BindsTag, "example.com/app" + d1, "example.com/app" + d2, "true"}, // the repository is all that a pull by digest asks for
		{evidence.BindsTag, "example.com/app:1" + d1, "example.com/app:1" + d1, "true"},
		{evidence.BindsTag, "example.com/app:1" + d2, "example.com/app:1" + d1, "false"},
		{evidence.BindsTag, "", "example.com/app:1", "false"},
		{evidence.BindsTag, "", "example.com/app" + d1, "false"},
	} {
		pulled, err := oci.ParseReference(tc.pulled)
		if err != nil {
			t.Fatal(err)
		}
		got := "nil"
		if m := (evidence.Signature{Binds: tc.binds, Reference: tc.named}).Matches(pulled); m != nil {
			got = fmt.Sprint(*m)
		}
		if got != tc.want {
			t.Errorf("binding %d, named %q, pulled %q: %s, want %s", tc.binds, tc.named, tc.pulled, got, tc.want)
		}
	}
}

// collector is a Collector made of a function.
type collector struct {
	name string
	do   func(context.Context, evidence.Subject) evidence.Findings
}

func (c collector) Name() string { return c.name }
func (c collector) Collect(ctx context.Context, s evidence.Subject) evidence.Findings {
	return c.do(ctx, s)
}

func TestGather(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	referrer := r.PushLayers(t, "text/spdx", []oci.Descriptor{r.PushBlob(t, "text/spdx", []byte("x"))}, m, "")
	s := r.Subject(m)
	s.Limits = evidence.Limits{Signatures: 3}

	r.Requests.Store(0)
	var collectors []evidence.Collector
	for i := range 4 {
		collectors = append(collectors, collector{fmt.Sprint("c", i), func(ctx context.Context, s evidence.Subject) evidence.Findings {
			list, err := s.Source.Referrers(ctx, m.Digest)
			if err != nil || len(list) != 1 || list[0].Digest != referrer.Digest {
				t.Errorf("referrers %v, %v", list, err)
			}
			if got, err := s.Source.Manifest(ctx, referrer.Digest); err != nil || got.Digest != referrer.Digest {
				t.Errorf("manifest %v, %v", got, err)
			}
			if _, err := s.Source.Manifest(ctx, digest.FromString("none")); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("got %v", err)
			}
			if want := (evidence.Limits{Attestation: evidence.DefaultLimits.Attestation, Signatures: 3, Referrers: evidence.DefaultLimits.Referrers}); s.Limits != want {
				t.Errorf("limits %+v", s.Limits)
			}
			return evidence.Findings{
				Signatures:   []evidence.Signature{{Location: fmt.Sprint(i)}},
				Attestations: []evidence.Attestation{{Location: fmt.Sprint(i)}},
				Problems: []evidence.Problem{
					{Collector: fmt.Sprint("c", i), Message: "the registry is down"},
					{Collector: fmt.Sprint("c", i), Message: fmt.Sprint("mine is ", i)},
				},
			}
		}})
	}
	collectors = slices.Insert(collectors, 1, evidence.Collector(collector{"bad", func(context.Context, evidence.Subject) evidence.Findings {
		panic("on foreign bytes")
	}}))
	found := evidence.Gather(t.Context(), collectors, s)

	if requests := r.Requests.Load(); requests != 3 {
		t.Errorf("%d requests for one list and two manifests", requests)
	}
	var signatures, attestations, problems []string
	for _, s := range found.Signatures {
		signatures = append(signatures, s.Location)
	}
	for _, a := range found.Attestations {
		attestations = append(attestations, a.Location)
	}
	for _, p := range found.Problems {
		problems = append(problems, p.Collector+": "+p.Message)
	}
	if want := []string{"0", "1", "2", "3"}; !slices.Equal(signatures, want) || !slices.Equal(attestations, want) {
		t.Errorf("signatures %q, attestations %q", signatures, attestations)
	}
	if want := []string{
		"c0: the registry is down", "c0: mine is 0", "bad: the collector failed: on foreign bytes",
		"c1: mine is 1", "c2: mine is 2", "c3: mine is 3",
	}; !slices.Equal(problems, want) {
		t.Errorf("problems %q", problems)
	}
}

// failing is a Source whose list of referrers fails as it is told to.
type failing struct {
	evidence.Source
	list func() ([]oci.Descriptor, error)
}

func (f failing) Referrers(context.Context, digest.Digest) ([]oci.Descriptor, error) { return f.list() }

// TestGatherReferrers: what one collector could not have, no collector takes
// for an absence.
func TestGatherReferrers(t *testing.T) {
	for name, tc := range map[string]struct {
		list func() ([]oci.Descriptor, error)
		says string
	}{
		"an error": {func() ([]oci.Descriptor, error) { return nil, errors.New("down") }, "down"},
		"a panic":  {func() ([]oci.Descriptor, error) { panic("broken") }, "broken"},
		"too many": {func() ([]oci.Descriptor, error) { return make([]oci.Descriptor, 3), nil }, "3 referrers, more than limits.referrers (2)"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, answered atomic.Int64
			list := func() ([]oci.Descriptor, error) { asked.Add(1); return tc.list() }
			c := collector{"c", func(ctx context.Context, s evidence.Subject) evidence.Findings {
				list, err := s.Source.Referrers(ctx, image)
				if err == nil {
					answered.Add(1)
					t.Errorf("got %v", list)
					return evidence.Findings{}
				}
				return evidence.Findings{Problems: []evidence.Problem{evidence.NewProblem("c", err)}}
			}}
			found := evidence.Gather(t.Context(), []evidence.Collector{c, c, c}, evidence.Subject{
				Source: failing{list: list}, Limits: evidence.Limits{Referrers: 2},
			})
			if asked.Load() != 1 || answered.Load() != 0 || len(found.Problems) != 1 || !strings.Contains(found.Problems[0].Message, tc.says) {
				t.Errorf("asked %d times, answered %d, problems %+v", asked.Load(), answered.Load(), found.Problems)
			}
		})
	}
}

func TestInherit(t *testing.T) {
	f := evidence.Findings{
		Signatures:   []evidence.Signature{{By: vouch("ci"), Location: "verified"}, {Location: "claim"}},
		Attestations: []evidence.Attestation{{Location: "claim"}, {By: vouch("ci"), Location: "verified", Subject: image}},
		Problems:     []evidence.Problem{{Message: "down"}},
	}
	got := f.Inherit()
	if len(got.Signatures) != 1 || got.Signatures[0].Location != "verified" || !got.Signatures[0].Inherited ||
		len(got.Attestations) != 1 || got.Attestations[0].Location != "verified" || !got.Attestations[0].Inherited ||
		got.Attestations[0].Subject != image || len(got.Problems) != 0 {
		t.Errorf("got %+v", got)
	}
	if f.Signatures[0].Inherited || f.Attestations[1].Inherited {
		t.Error("the index's own findings were changed")
	}
}

func TestCover(t *testing.T) {
	index := digest.FromString("the index")
	claim := evidence.Attestation{Location: "claim", InIndex: index}
	f := evidence.Findings{
		Signatures: []evidence.Signature{{Location: "s"}},
		Attestations: []evidence.Attestation{
			claim,
			{Location: "elsewhere"},
			{Location: "another index", InIndex: digest.FromString("x")},
			{Location: "broken", InIndex: index, Err: "not about this image"},
			{Location: "already", InIndex: index, By: vouch("builder")},
		},
		Problems: []evidence.Problem{{Message: "p"}},
	}
	type fact struct {
		location, by string
		inherited    bool
	}
	facts := func(f evidence.Findings) []fact {
		var list []fact
		for _, a := range f.Attestations {
			list = append(list, fact{a.Location, a.By.Signer().Name, a.Inherited})
		}
		return list
	}
	untouched := []fact{{"claim", "", false}, {"elsewhere", "", false}, {"another index", "", false}, {"broken", "", false}, {"already", "builder", false}}
	for name, tc := range map[string]struct {
		signers []evidence.Voucher
		want    []fact
	}{
		"nobody":            {nil, untouched},
		"nobody who counts": {[]evidence.Voucher{{}}, untouched},
		"one":               {[]evidence.Voucher{{}, vouch("ci")}, append([]fact{{"claim", "ci", true}}, untouched[1:]...)},
		"two":               {[]evidence.Voucher{vouch("ci"), vouch("release")}, append([]fact{{"claim", "ci", true}, {"claim", "release", true}}, untouched[1:]...)},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.Cover(index, tc.signers)
			if !slices.Equal(facts(got), tc.want) || len(got.Signatures) != 1 || len(got.Problems) != 1 {
				t.Errorf("got %+v", got)
			}
			if !slices.Equal(facts(f), untouched) {
				t.Errorf("the findings themselves became %+v", f)
			}
		})
	}
}

func TestSigners(t *testing.T) {
	f := evidence.Findings{Signatures: []evidence.Signature{{By: vouch("a")}, {}, {By: vouch("b")}, {By: vouch("a")}}}
	var names []string
	for _, v := range f.Signers() {
		names = append(names, v.Signer().Name)
	}
	if want := []string{"a", "b"}; !slices.Equal(names, want) {
		t.Errorf("got %q", names)
	}
}

type says bool

func (says) Error() string     { return "it says" }
func (s says) Temporary() bool { return bool(s) }

func TestNewProblem(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"plain":                      {errors.New("no"), false},
		"not found":                  {oci.ErrNotFound, false},
		"deadline":                   {fmt.Errorf("asking: %w", context.DeadlineExceeded), true},
		"canceled":                   {context.Canceled, true},
		"says yes":                   {fmt.Errorf("asking: %w", says(true)), true},
		"says no":                    {fmt.Errorf("asking: %w", says(false)), false},
		"unavailable":                {fmt.Errorf("%w: reading", upstream.ErrUnavailable), true},
		"unavailable, and says no":   {fmt.Errorf("%w: %w", upstream.ErrUnavailable, says(false)), false},
		"unauthorized":               {upstream.ErrUnauthorized, false},
		"one of several says so too": {errors.Join(errors.New("no"), says(true)), true},
	} {
		if p := evidence.NewProblem("c", tc.err); p.Temporary != tc.want || p.Collector != "c" || p.Message != tc.err.Error() {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
