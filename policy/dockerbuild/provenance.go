package dockerbuild

import (
	"encoding/json"
	"strings"
	"time"
)

// The predicate types that policies can read.
//
// https://slsa.dev/spec/v1.0/provenance and https://slsa.dev/spec/v0.2/provenance
const (
	typeV1  = "https://slsa.dev/provenance/v1"
	typeV02 = "https://slsa.dev/provenance/v0.2"
)

const maxPredicate = 16 << 20 // bytes

// Provenance is how the image says that it was built.
type Provenance struct {
	PredicateType string            `json:"predicateType,omitempty"`
	BuildType     string            `json:"buildType,omitempty"`
	BuilderID     string            `json:"builderID,omitempty"`
	InvocationID  string            `json:"invocationID,omitempty"`
	StartedOn     string            `json:"startedOn,omitempty"`
	FinishedOn    string            `json:"finishedOn,omitempty"`
	ConfigSource  *ConfigSource     `json:"configSource,omitempty"`
	Frontend      string            `json:"frontend,omitempty"`
	BuildArgs     map[string]string `json:"buildArgs,omitempty"`
	RawArgs       map[string]string `json:"rawArgs,omitempty"`
	Reproducible  *bool             `json:"reproducible,omitempty"`
	Hermetic      *bool             `json:"hermetic,omitempty"`
	Completeness  *Completeness     `json:"completeness,omitempty"`
}

// ConfigSource is where the Dockerfile came from.
type ConfigSource struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
	Path   string            `json:"path,omitempty"`
}

// Completeness says of which parts the builder claims to have left out nothing.
type Completeness struct {
	Parameters  *bool `json:"parameters,omitempty"`
	Environment *bool `json:"environment,omitempty"`
	Materials   *bool `json:"materials,omitempty"`
}

// request is what BuildKit was asked for.
type request struct {
	Frontend string            `json:"frontend"`
	Args     map[string]string `json:"args"`
}

// readProvenance reads what BuildKit writes of itself; other builders leave
// most of it empty. It is false for what cannot be read.
//
// https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md
func readProvenance(s *Statement) (*Provenance, bool) {
	if s == nil || len(s.Predicate) > maxPredicate {
		return nil, false
	}
	switch s.PredicateType {
	case typeV1:
		return readV1(s.Predicate)
	case typeV02:
		return readV02(s.Predicate)
	}
	return nil, false
}

func readV1(raw []byte) (*Provenance, bool) {
	var doc struct {
		BuildDefinition struct {
			BuildType          string `json:"buildType"`
			ExternalParameters struct {
				ConfigSource json.RawMessage `json:"configSource"`
				Request      json.RawMessage `json:"request"`
			} `json:"externalParameters"`
		} `json:"buildDefinition"`
		RunDetails struct {
			Builder struct {
				ID string `json:"id"`
			} `json:"builder"`
			Metadata *struct {
				InvocationID string     `json:"invocationID"`
				StartedOn    *time.Time `json:"startedOn"`
				FinishedOn   *time.Time `json:"finishedOn"`
				Hermetic     bool       `json:"buildkit_hermetic"`
				Reproducible bool       `json:"buildkit_reproducible"`
				Completeness struct {
					Request              bool `json:"request"`
					ResolvedDependencies bool `json:"resolvedDependencies"`
				} `json:"buildkit_completeness"`
			} `json:"metadata"`
		} `json:"runDetails"`
	}
	if json.Unmarshal(raw, &doc) != nil || doc.BuildDefinition.BuildType == "" && doc.RunDetails.Builder.ID == "" {
		return nil, false
	}
	p := &Provenance{
		PredicateType: typeV1, BuildType: doc.BuildDefinition.BuildType, BuilderID: doc.RunDetails.Builder.ID,
		ConfigSource: &ConfigSource{},
	}
	asked := request{}
	parameters := doc.BuildDefinition.ExternalParameters
	if !perhaps(parameters.ConfigSource, p.ConfigSource) || !perhaps(parameters.Request, &asked) {
		return nil, false
	}
	p.setRequest(asked)
	if m := doc.RunDetails.Metadata; m != nil {
		p.InvocationID, p.StartedOn, p.FinishedOn = m.InvocationID, instant(m.StartedOn), instant(m.FinishedOn)
		p.Reproducible, p.Hermetic = &m.Reproducible, &m.Hermetic
		p.Completeness = &Completeness{Parameters: &m.Completeness.Request, Materials: &m.Completeness.ResolvedDependencies}
	}
	return p, true
}

func readV02(raw []byte) (*Provenance, bool) {
	var doc struct {
		BuildType string `json:"buildType"`
		Builder   struct {
			ID string `json:"id"`
		} `json:"builder"`
		Invocation struct {
			ConfigSource struct {
				URI        string            `json:"uri"`
				Digest     map[string]string `json:"digest"`
				EntryPoint string            `json:"entryPoint"`
			} `json:"configSource"`
			Parameters json.RawMessage `json:"parameters"`
		} `json:"invocation"`
		Metadata *struct {
			InvocationID string     `json:"buildInvocationID"`
			StartedOn    *time.Time `json:"buildStartedOn"`
			FinishedOn   *time.Time `json:"buildFinishedOn"`
			Reproducible bool       `json:"reproducible"`
			Hermetic     bool       `json:"https://mobyproject.org/buildkit@v1#hermetic"`
			Completeness struct {
				Parameters  bool `json:"parameters"`
				Environment bool `json:"environment"`
				Materials   bool `json:"materials"`
			} `json:"completeness"`
		} `json:"metadata"`
	}
	if json.Unmarshal(raw, &doc) != nil || doc.BuildType == "" && doc.Builder.ID == "" {
		return nil, false
	}
	from := doc.Invocation.ConfigSource
	p := &Provenance{
		PredicateType: typeV02, BuildType: doc.BuildType, BuilderID: doc.Builder.ID,
		ConfigSource: &ConfigSource{URI: from.URI, Digest: from.Digest, Path: from.EntryPoint},
	}
	asked := request{}
	if !perhaps(doc.Invocation.Parameters, &asked) {
		return nil, false
	}
	p.setRequest(asked)
	if m := doc.Metadata; m != nil {
		p.InvocationID, p.StartedOn, p.FinishedOn = m.InvocationID, instant(m.StartedOn), instant(m.FinishedOn)
		p.Reproducible, p.Hermetic = &m.Reproducible, &m.Hermetic
		c := m.Completeness
		p.Completeness = &Completeness{Parameters: &c.Parameters, Environment: &c.Environment, Materials: &c.Materials}
	}
	return p, true
}

// perhaps reads an object that is there and is one. Other builders have other
// things in its place, which no policy can ask for; BuildKit's own must be
// readable.
func perhaps(raw json.RawMessage, into any) bool {
	if text := strings.TrimSpace(string(raw)); !strings.HasPrefix(text, "{") {
		return true
	}
	return json.Unmarshal(raw, into) == nil
}

func (p *Provenance) setRequest(r request) {
	p.Frontend, p.RawArgs = r.Frontend, r.Args
	for name, value := range r.Args {
		if name, ok := strings.CutPrefix(name, "build-arg:"); ok && name != "" {
			if p.BuildArgs == nil {
				p.BuildArgs = map[string]string{}
			}
			p.BuildArgs[name] = value
		}
	}
}

func instant(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
