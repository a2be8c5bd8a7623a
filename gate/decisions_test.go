package gate_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// written keeps what the gate tells its decision log.
type written struct {
	mu   sync.Mutex
	list []told
}

type told struct {
	id    string
	at    time.Time
	input *policy.Input
	made  policy.Decision
}

func (w *written) Decided(id string, at time.Time, input *policy.Input, made policy.Decision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, told{id, at, input, made})
}

func TestDecisionLogIsToldOfEachImageOnce(t *testing.T) {
	s := stage.New(t)
	log := &written{}
	g := s.Gate(stage.Options{Mode: policy.Enforce, Decisions: log, Platforms: []oci.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}})
	var images []v1.Image
	for _, content := range []string{"amd", "arm"} {
		built, err := shipyard.Build(nil, map[string]string{"bin/app": content})
		s.Must(err)
		images = append(images, built)
	}
	index, err := s.Registry.PushIndex(t.Context(), "app", "1", []string{"linux/amd64", "linux/arm64"}, images...)
	s.Must(err)
	a := s.Pull(g, index.Reference())
	s.Pull(g, index.Reference())
	if len(log.list) != 2 {
		t.Fatalf("it is told %d times of an index of two images", len(log.list))
	}
	ids := []string{log.list[0].id, log.list[1].id}
	if slices.Contains(ids, a.Verdict.ID) || ids[0] == ids[1] {
		t.Errorf("it is told of %v, and the index has %s", ids, a.Verdict.ID)
	}
	for _, one := range log.list {
		if one.made.Action != policy.Block || one.input.Image.Kind != "image" || one.input.Request.Time.IsZero() || one.at.IsZero() {
			t.Errorf("it is told %+v of %+v", one.made, one.input.Request)
		}
	}
}
