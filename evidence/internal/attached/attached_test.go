package attached_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/attached"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/oci"
)

const kind = "application/vnd.in-toto+json"

var query = attached.Query{
	Collector: "test",
	Tags:      []string{"evidence", "none"},
	Artifact:  func(t string) bool { return t == kind },
	Layer:     func(t string) bool { return t == kind },
}

// watched counts the reads that are under way at once.
type watched struct {
	evidence.Source
	now, most atomic.Int64
	blob      func() // before each blob
}

func (w *watched) Blob(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	n := w.now.Add(1)
	defer w.now.Add(-1)
	for most := w.most.Load(); n > most && !w.most.CompareAndSwap(most, n); most = w.most.Load() {
	}
	if w.blob != nil {
		w.blob()
	}
	return w.Source.Blob(ctx, d, limit)
}

func TestFind(t *testing.T) {
	for _, api := range evidencetest.Kinds {
		t.Run(api, func(t *testing.T) {
			r := evidencetest.Start(t, api, "acme/app")
			m := r.PushImage(t, "the image")
			var many []oci.Descriptor
			for i := range 40 {
				many = append(many, r.PushBlob(t, kind, fmt.Append(nil, "layer ", i)))
			}
			r.PushLayers(t, "", append(many, many[0], r.PushBlob(t, "text/spdx", []byte("x"))), nil, "evidence")
			r.PushLayers(t, kind, many[:2], m, "")
			subject := r.Subject(m)
			source := &watched{Source: r}
			subject.Source = source
			items, problems := attached.Find(t.Context(), subject, query)
			if len(problems) != 0 || len(items) != 43 {
				t.Fatalf("%d items, problems %+v", len(items), problems)
			}
			for i, item := range items {
				n, place := i, "tag evidence, layer "+item.Layer.Digest.String()
				if i == 40 {
					n = 0
				} else if i > 40 {
					n = i - 41
				}
				if i > 40 && strings.HasPrefix(item.Location, "referrer sha256:") {
					place = item.Location
				}
				if item.Err != nil || string(item.Raw) != fmt.Sprint("layer ", n) || item.Location != place {
					t.Errorf("item %d is %+v (%s)", i, item, item.Raw)
				}
			}
			if most := source.most.Load(); most > 8 {
				t.Errorf("%d blobs were read at once", most)
			}
		})
	}
}

// TestFindPanics: a panic on foreign bytes in a read must end in the caller,
// where Gather makes a problem of it, and not in the process.
func TestFindPanics(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithoutReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	r.PushLayers(t, "", []oci.Descriptor{r.PushBlob(t, kind, []byte("x")), r.PushBlob(t, kind, []byte("y"))}, nil, "evidence")
	subject := r.Subject(m)
	subject.Source = &watched{Source: r, blob: func() { panic("foreign bytes") }}
	defer func() {
		if p := recover(); p != "foreign bytes" {
			t.Errorf("recovered %v", p)
		}
	}()
	attached.Find(t.Context(), subject, query)
	t.Error("it did not panic")
}
