package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/evidence/packages"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

const (
	examiners    = 1   // examinations at a time; each is a stream through a whole image
	examinations = 256 // that wait for their turn; more are asked for again by later pulls
)

// packagesOf is what is known about the packages of an image: nothing when they
// are not examined, pending until they have been.
func (g *Gate) packagesOf(ctx context.Context, f *facts) (*policy.Packages, error) {
	if !g.Packages.Examine || f.manifest.Kind != oci.KindImage || f.config == nil {
		return nil, nil
	}
	return g.packagesAbove(ctx, f.manifest.Digest, f.below)
}

// packagesAbove is what the ledger knows about the packages of an image, those of
// its first layers left out.
func (g *Gate) packagesAbove(ctx context.Context, d digest.Digest, below int) (*policy.Packages, error) {
	e, err := g.Ledger.Examination(ctx, d, below)
	if errors.Is(err, oci.ErrNotFound) || (err == nil && g.isOld(e)) {
		return emptyPackages("pending", ""), nil
	}
	if err != nil {
		return nil, err
	}
	if e.Failure != "" {
		return emptyPackages("failed", e.Failure), nil
	}
	var report packages.Report
	if err := json.Unmarshal(e.Report, &report); err != nil {
		return nil, fmt.Errorf("reading the examination of %s: %w", e.Digest, err)
	}
	return inputPackages(&report), nil
}

// isOld says whether an examination that failed should be tried again.
func (g *Gate) isOld(e ledger.Examination) bool {
	return e.Failure != "" && g.Now().Sub(e.At) > g.Lifetimes.Serve
}

func emptyPackages(state, failure string) *policy.Packages {
	return &policy.Packages{
		State: state, Error: failure,
		Managers: []string{}, Modified: []string{}, Missing: []string{}, Replaced: []string{}, ModifiedConffiles: []string{},
		UnownedExecutables: []string{}, UnownedSetuid: []string{},
	}
}

func inputPackages(r *packages.Report) *policy.Packages {
	p := emptyPackages("done", "")
	p.Distribution, p.Count, p.SourceURL, p.Truncated = r.Distribution.String(), r.Count, r.SourceURL, r.Truncated
	for _, list := range []struct {
		into *[]string
		from []string
	}{
		{&p.Managers, r.Managers}, {&p.Modified, r.Modified.List}, {&p.Missing, r.Missing.List}, {&p.Replaced, r.Replaced.List},
		{&p.ModifiedConffiles, r.ModifiedConffiles.List}, {&p.UnownedExecutables, r.UnownedExecutables.List}, {&p.UnownedSetuid, r.UnownedSetuid.List},
	} {
		*list.into = append(*list.into, list.from...)
	}
	return p
}

// examinee is what an examination is about.
type examinee struct {
	digest digest.Digest
	below  int
}

// examineLater starts the examination of an image whose packages are pending,
// and judges the image again when it is done. An image that is blocked whatever
// its packages are is left alone.
func (g *Gate) examineLater(n node, a *Admission) {
	for _, r := range a.Verdict.Reasons {
		if r.Effect == policy.Block && !strings.HasPrefix(r.Code, "packages.") {
			return
		}
	}
	about := examinee{a.Manifest.Digest, a.Below}
	g.examining.Lock()
	defer g.examining.Unlock()
	waiting, under := g.examining.waiting[about]
	if under {
		waiting[a.key] = n // judged again with the first one
		return
	}
	if len(g.examining.waiting) >= examinations || !g.begin() {
		return
	}
	g.examining.waiting[about] = map[string]node{a.key: n}
	go func() {
		defer g.work.Done()
		g.examineNow(n, a)
		g.examining.Lock()
		again := g.examining.waiting[about]
		delete(g.examining.waiting, about)
		g.examining.Unlock()
		for _, n := range again {
			g.judgeAgain(n)
		}
	}()
}

// examineNow waits for its turn.
func (g *Gate) examineNow(n node, a *Admission) {
	select {
	case g.examining.slots <- struct{}{}:
		defer func() { <-g.examining.slots }()
	case <-g.background.Done():
		return
	}
	if e, err := g.Ledger.Examination(g.background, a.Manifest.Digest, a.Below); err == nil && !g.isOld(e) {
		return // somebody else has
	}
	if _, err := g.examinePackages(g.background, n.route, a); err != nil {
		g.Log.Warn("the packages could not be examined", zap.Stringer("reference", n.ref), zap.Error(err))
	}
}

// judgeAgain replaces a verdict that was made without what is known now.
func (g *Gate) judgeAgain(n node) {
	if g.background.Err() != nil {
		return
	}
	again := newNode(n.route, n.ref, n.client, g.Limits.Nodes)
	again.since = g.Now()
	if _, err := g.admit(g.background, again); err != nil && !errors.Is(err, ErrClosed) {
		g.Log.Warn("judging again after the examination failed", zap.Stringer("reference", n.ref), zap.Error(err))
	}
}

// Examine checks the packages of an admitted image now, and remembers what it
// finds.
func (g *Gate) Examine(ctx context.Context, a *Admission) (*packages.Report, error) {
	route, err := g.route(a.Reference)
	if err != nil {
		return nil, err
	}
	return g.examinePackages(ctx, route, a)
}

func (g *Gate) examinePackages(ctx context.Context, route *Route, a *Admission) (report *packages.Report, err error) {
	started := g.Now()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the examination failed: %v", p)
			g.Log.Error("an examination panicked", panicFields(p)...)
		}
		if ctx.Err() != nil {
			return // it says nothing about the image
		}
		record, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
		defer cancel()
		if recordErr := g.recordExamination(record, a, report, err); recordErr != nil {
			err = errors.Join(err, recordErr)
		}
		g.Log.Info("packages examined", zap.Stringer("reference", a.Reference), zap.Duration("took", g.Now().Sub(started)), zap.Error(err))
	}()
	from, err := route.Upstream.Repository(a.Reference.Repository())
	if err != nil {
		return nil, err
	}
	var layers []packages.Layer
	for i, l := range a.Manifest.Layers {
		layer := packages.Layer{Digest: l.Digest, MediaType: l.MediaType}
		if len(a.DiffIDs) == len(a.Manifest.Layers) {
			layer.DiffID = a.DiffIDs[i]
		}
		layer.Open = func(ctx context.Context) (io.ReadCloser, error) {
			return g.Cache.Blob(ctx, l, func(ctx context.Context) (io.ReadCloser, int64, error) { return from.Blob(ctx, l.Digest, 0) })
		}
		layers = append(layers, layer)
	}
	return packages.Examine(ctx, layers, a.Below, g.Packages.Limits)
}

func (g *Gate) recordExamination(ctx context.Context, a *Admission, report *packages.Report, failure error) error {
	e := ledger.Examination{Digest: a.Manifest.Digest, Below: a.Below, At: g.Now()}
	if failure != nil {
		e.Failure = failure.Error()
		return g.Ledger.PutExamination(ctx, e)
	}
	var err error
	if e.Report, err = json.Marshal(report); err != nil {
		return err
	}
	return g.Ledger.PutExamination(ctx, e)
}

// Packages says whether and how the packages inside images are examined.
type Packages struct {
	Examine bool // in the background, after the first pull
	Limits  packages.Limits
}

// below is how many of an image's layers are those of the parent that its final
// stage stands on.
func below(edge policy.Parent, diffIDs []digest.Digest) int {
	if edge.Stage != "final" || edge.Known != "proven" {
		return 0
	}
	return len(diffIDs)
}
