package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// Recorded is a verdict in the ledger.
type Recorded struct {
	Decision    string            `json:"decision"`
	Reference   string            `json:"reference"`
	Digest      digest.Digest     `json:"digest"`
	Action      policy.Action     `json:"action"`
	BeforeMode  policy.Action     `json:"before_mode"`
	Reasons     []policy.Reason   `json:"reasons"`
	Annotations map[string]string `json:"annotations,omitempty"`
	JudgedAt    time.Time         `json:"judged_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	Took        float64           `json:"took_seconds"`
	Policy      string            `json:"policy_revision"`
	Trust       string            `json:"trust_revision"`
	InputDigest digest.Digest     `json:"input_digest"`
	Pulls       []Pulls           `json:"pulls,omitempty"`
	Input       json.RawMessage   `json:"input,omitempty"`
}

// Pulls counts those of one client under one verdict.
type Pulls struct {
	Client string    `json:"client"`
	Count  int64     `json:"count"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Verdicts lists what was decided, newest first, without pulls and inputs.
func (a *API) Verdicts(ctx context.Context, f ledger.Filter) ([]Recorded, error) {
	judgements, err := a.Ledger.List(ctx, f)
	if err != nil {
		return nil, err
	}
	list := []Recorded{}
	for _, j := range judgements {
		r, err := record(j)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// Verdict is one of them, with everything. The error matches oci.ErrNotFound
// where there is none with that id.
func (a *API) Verdict(ctx context.Context, id string) (Recorded, error) {
	j, err := a.Ledger.Get(ctx, id)
	if err != nil {
		return Recorded{}, fmt.Errorf("decision %q: %w", id, err)
	}
	r, err := record(j)
	if err != nil {
		return r, err
	}
	if r.Input, err = a.Ledger.Input(ctx, id); err != nil {
		return r, err
	}
	counted, err := a.Ledger.Pulls(ctx, id)
	for _, p := range counted {
		r.Pulls = append(r.Pulls, Pulls(p))
	}
	return r, err
}

func record(j ledger.Judgement) (Recorded, error) {
	reference := j.Name
	if j.Tag != "" {
		reference += ":" + j.Tag
	}
	r := Recorded{
		Decision: j.ID, Reference: reference, Digest: j.Digest,
		Action: policy.Action(j.Action), BeforeMode: policy.Action(j.BeforeMode),
		JudgedAt: j.JudgedAt, ExpiresAt: j.ExpiresAt, Took: j.Took.Seconds(),
		Policy: j.PolicyRevision, Trust: j.TrustRevision, InputDigest: j.InputDigest,
	}
	for _, part := range []struct {
		raw  json.RawMessage
		into any
	}{{j.Reasons, &r.Reasons}, {j.Annotations, &r.Annotations}} {
		if err := json.Unmarshal(part.raw, part.into); err != nil {
			return r, fmt.Errorf("reading decision %s: %w", j.ID, err)
		}
	}
	r.Reasons = orEmpty(r.Reasons)
	return r, nil
}

// ParseFilter reads what people write to narrow a list of verdicts: an image or
// a repository, an action, and a time as 24h, 2027-01-31 or RFC 3339. Empty
// strings narrow nothing.
func ParseFilter(image, action, since string, now time.Time) (ledger.Filter, error) {
	f := ledger.Filter{Action: action}
	switch policy.Action(action) {
	case "", policy.Serve, policy.Annotate, policy.Block:
	default:
		return f, fmt.Errorf("action is %q; it must be serve, annotate or block", action)
	}
	if image != "" {
		ref, err := oci.ParseReference(image)
		if err != nil {
			return f, err
		}
		f.Name, f.Tag, f.Digest = ref.Name(), ref.Tag(), ref.Digest()
	}
	var err error
	if since != "" {
		f.Since, err = ParseTime("since", since, now)
	}
	return f, err
}

// ParseTime reads what people write for a time: so long ago, a day or an instant.
// name is what the error calls it.
func ParseTime(name, text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s is %q; write it as 24h, 2027-01-31 or 2027-01-31T12:00:00Z", name, text)
}
