package ledger_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
)

const name = "registry.example/acme/app"

func open(t testing.TB, dsn string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// each runs a test over every kind of ledger.
func each(t *testing.T, test func(t *testing.T, l *ledger.Ledger)) {
	for _, kind := range []string{"file", "memory"} {
		t.Run(kind, func(t *testing.T) {
			dsn := "sqlite::memory:"
			if kind == "file" {
				dsn = "sqlite:" + filepath.Join(t.TempDir(), "made", "ledger?#%.db")
			}
			l := open(t, dsn)
			defer l.Close()
			test(t, l)
		})
	}
}

var base = time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC)

func judgement(key string, n int, action string) ledger.Judgement {
	return ledger.Judgement{
		ID: ledger.NewID(), Key: key, Route: "registry.example", Name: name, Tag: "1",
		Digest: digest.FromString("manifest"), Index: digest.FromString("index"),
		PolicyRevision: "p", TrustRevision: "t", EvidenceDigest: digest.FromString("e"),
		InputDigest: digest.FromString("input"), Action: action, BeforeMode: "block",
		Reasons: json.RawMessage(`[{"code":"x"}]`), Annotations: json.RawMessage(`{}`), Detail: json.RawMessage(`{"root":true}`),
		JudgedAt: base.Add(time.Duration(n) * time.Minute), ExpiresAt: base.Add(time.Hour), Took: 42 * time.Millisecond,
	}
}

func record(t testing.TB, l *ledger.Ledger, j ledger.Judgement) ledger.Judgement {
	t.Helper()
	if err := l.Record(context.Background(), j, []byte("input")); err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJudgements(t *testing.T) {
	each(t, func(t *testing.T, l *ledger.Ledger) {
		ctx := context.Background()
		first := record(t, l, judgement("k", 0, "block"))
		second := record(t, l, judgement("k", 1, "serve"))
		other := record(t, l, judgement("other", 2, "annotate"))

		for what, got := range map[string]func() (ledger.Judgement, error){
			"latest": func() (ledger.Judgement, error) { return l.Latest(ctx, "k") },
			"get":    func() (ledger.Judgement, error) { return l.Get(ctx, second.ID) },
		} {
			j, err := got()
			if err != nil || !reflect.DeepEqual(j, second) {
				t.Errorf("%s: got %+v, %v\nwant %+v", what, j, err, second)
			}
		}
		if _, err := l.Latest(ctx, "none"); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("an unknown key: %v", err)
		}
		if input, err := l.Input(ctx, first.ID); err != nil || string(input) != "input" {
			t.Errorf("input: %q, %v", input, err)
		}
		served, err := l.Served(ctx, name, first.Digest)
		if err != nil || len(served) != 2 || served[0].ID != other.ID || served[1].ID != second.ID {
			t.Errorf("served: %v, %v", served, err)
		}
		for _, tc := range []struct {
			filter ledger.Filter
			want   []string
		}{
			{ledger.Filter{}, []string{other.ID, second.ID, first.ID}},
			{ledger.Filter{Limit: 1}, []string{other.ID}},
			{ledger.Filter{Before: other.ID, Limit: 1}, []string{second.ID}},
			{ledger.Filter{Action: "block"}, []string{first.ID}},
			{ledger.Filter{Since: base.Add(time.Minute), Until: base.Add(2 * time.Minute)}, []string{second.ID}},
			{ledger.Filter{Name: "elsewhere"}, nil},
		} {
			list, err := l.List(ctx, tc.filter)
			var got []string
			for _, j := range list {
				got = append(got, j.ID)
			}
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%+v: got %v, %v, want %v", tc.filter, got, err, tc.want)
			}
		}
	})
}

func TestPruneKeepsWhatMayStand(t *testing.T) {
	each(t, func(t *testing.T, l *ledger.Ledger) {
		ctx := context.Background()
		old := record(t, l, judgement("k", 0, "block"))
		newest := record(t, l, judgement("k", 1, "serve"))
		if n, err := l.Prune(ctx, base.Add(time.Hour)); err != nil || n != 1 {
			t.Fatalf("removed %d, %v", n, err)
		}
		if _, err := l.Get(ctx, old.ID); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("the old one: %v", err)
		}
		if _, err := l.Input(ctx, newest.ID); err != nil {
			t.Errorf("the input of the newest: %v", err)
		}
	})
}

func TestContents(t *testing.T) {
	each(t, func(t *testing.T, l *ledger.Ledger) {
		ctx := context.Background()
		layer := oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: digest.FromString("layer"), Size: 7}
		config := oci.Descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: digest.FromString("config"), Size: 3}
		image := &oci.Manifest{Digest: digest.FromString("image"), Config: &config, Layers: []oci.Descriptor{layer}}
		index := &oci.Manifest{Digest: digest.FromString("index"), Manifests: []oci.Descriptor{{Digest: image.Digest}}}
		for range 2 { // twice is as good as once
			for _, m := range []*oci.Manifest{image, index} {
				if err := l.PutManifest(ctx, name, m); err != nil {
					t.Fatal(err)
				}
			}
		}
		holders, err := l.Holders(ctx, name, layer.Digest)
		if want := []ledger.Holder{{Manifest: image.Digest, Blob: layer}}; err != nil || !reflect.DeepEqual(holders, want) {
			t.Errorf("holders: %v, %v", holders, err)
		}
		if holders, err := l.Holders(ctx, "other/repository", layer.Digest); err != nil || len(holders) != 0 {
			t.Errorf("holders in another repository: %v, %v", holders, err)
		}
		listings, err := l.Indexes(ctx, name, image.Digest)
		if err != nil || len(listings) != 1 || listings[0].Index != index.Digest {
			t.Errorf("indexes: %v, %v", listings, err)
		}
	})
}

func TestTags(t *testing.T) {
	each(t, func(t *testing.T, l *ledger.Ledger) {
		ctx := context.Background()
		if _, _, err := l.Tag(ctx, name, "1"); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("an unknown tag: %v", err)
		}
		for i, content := range []string{"a", "b"} {
			at := base.Add(time.Duration(i) * time.Hour)
			if err := l.SetTag(ctx, name, "1", digest.FromString(content), at); err != nil {
				t.Fatal(err)
			}
			d, resolved, err := l.Tag(ctx, name, "1")
			if err != nil || d != digest.FromString(content) || !resolved.Equal(at) {
				t.Errorf("got %s, %s, %v", d, resolved, err)
			}
		}
	})
}

func TestDeepestChainComesFirst(t *testing.T) {
	each(t, func(t *testing.T, l *ledger.Ledger) {
		ctx := context.Background()
		var chains []digest.Digest
		for i := range 1200 {
			chains = append(chains, digest.FromString(fmt.Sprint("chain", i)))
		}
		for _, depth := range []int{3, 40, 900} {
			if err := l.PutChain(ctx, chains[depth-1], depth, name, digest.FromString(fmt.Sprint("image", depth))); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct{ layers, want int }{{1200, 900}, {800, 40}, {39, 3}, {2, 0}} {
			found, err := l.Chains(ctx, chains[:tc.layers])
			got := 0
			if len(found) > 0 {
				got = found[0].Depth
			}
			if err != nil || got != tc.want {
				t.Errorf("%d layers: depth %d, %v, want %d", tc.layers, got, err, tc.want)
			}
		}
	})
}

func TestPullsSurviveClose(t *testing.T) {
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, dsn)
	j := record(t, l, judgement("k", 0, "serve"))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { l.CountPull(j.ID, "192.0.2."+fmt.Sprint(i%2), base.Add(time.Duration(i)*time.Second)) })
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dsn)
	defer l.Close()
	pulls, err := l.Pulls(context.Background(), j.ID)
	if err != nil || len(pulls) != 2 || pulls[0].Count+pulls[1].Count != 50 {
		t.Errorf("pulls: %+v, %v", pulls, err)
	}
}

// What Record returned from is there although nobody closed the ledger.
func TestRecordedIsDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, "sqlite:"+path)
	defer l.Close()
	j := record(t, l, judgement("k", 0, "serve"))
	copied := filepath.Join(t.TempDir(), "ledger.db")
	for _, suffix := range []string{"", "-wal"} { // the disk as a crash leaves it
		raw, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied+suffix, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	after := open(t, "sqlite:"+copied)
	defer after.Close()
	if got, err := after.Get(context.Background(), j.ID); err != nil || got.ID != j.ID {
		t.Errorf("after the crash: %v, %v", got, err)
	}
}

func TestRefusals(t *testing.T) {
	folder := t.TempDir()
	newer := filepath.Join(folder, "newer.db")
	open(t, "sqlite:"+newer).Close()
	db, err := sql.Open("sqlite", newer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, 1)`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	damaged := filepath.Join(folder, "damaged.db")
	if err := os.WriteFile(damaged, bytes.Repeat([]byte("not a database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for dsn, want := range map[string]string{
		"sqlite:" + newer:                "newer version",
		"sqlite:" + damaged:              "move it away",
		"postgres://user:secret@host/db": "only sqlite",
		"sqlite:":                        "only sqlite",
	} {
		_, err := ledger.Open(context.Background(), dsn)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", dsn, err, want)
		}
	}
}

// TestDamageWhileOpen overwrites the file under an open ledger: no method gives
// an answer that the file does not hold, and the error says which file it is.
func TestDamageWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, "sqlite:"+path)
	record(t, l, judgement("k", 1, "serve"))
	l.Close() // everything is in the one file
	l = open(t, "sqlite:"+path)
	t.Cleanup(func() { l.Close() })
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(raw[:100:100], bytes.Repeat([]byte{0xa5}, len(raw)-100)...), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, d := context.Background(), digest.FromString("x")
	for name, ask := range map[string]func() error{
		"Get":           func() error { _, err := l.Get(ctx, "tg-x"); return err },
		"HasManifest":   func() error { _, err := l.HasManifest(ctx, "registry.example/app", d); return err },
		"Holders":       func() error { _, err := l.Holders(ctx, "registry.example/app", d); return err },
		"Tag":           func() error { _, _, err := l.Tag(ctx, "registry.example/app", "1"); return err },
		"SetTag":        func() error { return l.SetTag(ctx, "registry.example/app", "1", d, time.Now()) },
		"Record":        func() error { return l.Record(ctx, judgement("k", 1, "serve"), []byte("{}")) },
		"RecordUses":    func() error { return l.RecordUses(ctx, map[digest.Digest]time.Time{d: time.Now()}) },
		"PutManifest":   func() error { return l.PutManifest(ctx, "registry.example/app", &oci.Manifest{Digest: d}) },
		"Prune":         func() error { _, err := l.Prune(ctx, time.Now()); return err },
		"ForgetTag":     func() error { return l.ForgetTag(ctx, "registry.example/app", "1") },
		"a new process": func() error { _, err := ledger.Open(ctx, "sqlite:"+path); return err },
	} {
		if err := ask(); !errors.Is(err, ledger.ErrUnusable) || !strings.Contains(err.Error(), path+" is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	l := open(t, "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
	defer l.Close()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 10 {
				key := fmt.Sprint(i)
				j := judgement(key, n, "serve")
				if err := l.Record(context.Background(), j, []byte("input")); err != nil {
					t.Error(err)
				}
				if got, err := l.Latest(context.Background(), key); err != nil || got.ID != j.ID {
					t.Errorf("read %s after writing %s: %v", got.ID, j.ID, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 10000 {
		id := ledger.NewID()
		if len(id) != 15 || !strings.HasPrefix(id, "tg-") || strings.ContainsAny(id, "lo01 ") || seen[id] {
			t.Fatalf("the id %q", id)
		}
		seen[id] = true
	}
}

func BenchmarkRecord(b *testing.B) {
	l := open(b, "sqlite:"+filepath.Join(b.TempDir(), "ledger.db"))
	defer l.Close()
	for b.Loop() {
		record(b, l, judgement("k", 0, "serve"))
	}
}

func BenchmarkLatest(b *testing.B) {
	l := open(b, "sqlite:"+filepath.Join(b.TempDir(), "ledger.db"))
	defer l.Close()
	for i := range 1000 {
		record(b, l, judgement(fmt.Sprint(i), 0, "serve"))
	}
	for b.Loop() {
		if _, err := l.Latest(context.Background(), "500"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestForget(t *testing.T) { each(t, forget) }

func forget(t *testing.T, l *ledger.Ledger) {
	ctx := t.Context()
	layer := oci.Descriptor{MediaType: "layer", Digest: digest.FromString("layer"), Size: 5}
	image := &oci.Manifest{Digest: digest.FromString("image"), Layers: []oci.Descriptor{layer}}
	index := &oci.Manifest{Digest: digest.FromString("index"), Manifests: []oci.Descriptor{{Digest: image.Digest}}}
	for _, name := range []string{"a.example/app", "a.example/other"} {
		for _, m := range []*oci.Manifest{image, index} {
			if err := l.PutManifest(ctx, name, m); err != nil {
				t.Fatal(err)
			}
		}
		for _, tag := range []string{"1", "2"} {
			if err := l.SetTag(ctx, name, tag, image.Digest, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	// known says what is left of a repository: its tags, manifests, blobs and lists.
	known := func(name string) (left [5]bool) {
		for i, tag := range []string{"1", "2"} {
			_, _, err := l.Tag(ctx, name, tag)
			left[i] = err == nil
		}
		var err error
		if left[2], err = l.HasManifest(ctx, name, image.Digest); err != nil {
			t.Fatal(err)
		}
		holders, err := l.Holders(ctx, name, layer.Digest)
		if err != nil {
			t.Fatal(err)
		}
		lists, err := l.Indexes(ctx, name, image.Digest)
		if err != nil {
			t.Fatal(err)
		}
		left[3], left[4] = len(holders) > 0, len(lists) > 0
		return left
	}
	for _, step := range []struct {
		what   string
		forget func() error
		left   [5]bool
	}{
		{"nothing", func() error { return nil }, [5]bool{true, true, true, true, true}},
		{"a tag", func() error { return l.ForgetTag(ctx, "a.example/app", "1") }, [5]bool{false, true, true, true, true}},
		{"the image", func() error { return l.ForgetManifest(ctx, "a.example/app", image.Digest) }, [5]bool{false, false, false, false, true}},
		{"the index", func() error { return l.ForgetManifest(ctx, "a.example/app", index.Digest) }, [5]bool{}},
		{"what is not there", func() error { return l.ForgetManifest(ctx, "a.example/app", index.Digest) }, [5]bool{}},
	} {
		if err := step.forget(); err != nil {
			t.Fatal(err)
		}
		if got := known("a.example/app"); got != step.left {
			t.Errorf("after %s was forgotten, left are %v, want %v", step.what, got, step.left)
		}
	}
	if got := known("a.example/other"); got != [5]bool{true, true, true, true, true} {
		t.Errorf("the other repository has %v left", got)
	}
}

func TestExceptionsStayOnRecord(t *testing.T) {
	ctx := context.Background()
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, dsn)
	at := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	first, err := l.ExceptionsRevision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e := ledger.Exception{
		ID: ledger.NewExceptionID(), Code: "signature.missing", Repository: "registry.example/acme/*", Owner: "ops", Reason: "until we sign it",
		Expires: at.Add(time.Hour), AddedAt: at, AddedBy: "anna",
	}
	if err := l.AddException(ctx, e); err != nil {
		t.Fatal(err)
	}
	if err := l.AddException(ctx, e); err == nil {
		t.Error("two have one id")
	}
	second, _ := l.ExceptionsRevision(ctx)
	removal := ledger.Removal{At: at.Add(time.Minute), By: "bert", Reason: "it is signed"}
	if err := l.RemoveException(ctx, e.ID, removal); err != nil {
		t.Fatal(err)
	}
	if err := l.RemoveException(ctx, e.ID, ledger.Removal{At: at.Add(time.Hour), By: "mallory"}); !errors.Is(err, ledger.ErrRemoved) {
		t.Errorf("removed twice: %v", err)
	}
	if err := l.RemoveException(ctx, "ex-nonesuch", removal); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("removing none: %v", err)
	}
	third, _ := l.ExceptionsRevision(ctx)
	if first == second || second == third || first == third {
		t.Errorf("the revisions are %q, %q, %q", first, second, third)
	}
	l.Close()

	l = open(t, dsn)
	defer l.Close()
	e.Removed = removal
	if all, err := l.Exceptions(ctx); err != nil || len(all) != 1 || all[0] != e {
		t.Errorf("after a restart: %+v, %v; want %+v", all, err, e)
	}
}

func TestUsesOfExceptions(t *testing.T) {
	ctx := context.Background()
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, dsn)
	at := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	used := map[string][]string{"tg-1": {"ex-a"}, "tg-2": {"ex-a", "cfg-b"}, "tg-3": nil}
	for i, id := range []string{"tg-1", "tg-2", "tg-3"} {
		j := ledger.Judgement{ID: id, Key: id, JudgedAt: at.Add(time.Duration(i) * time.Minute), Exceptions: used[id]}
		if err := l.Record(ctx, j, nil); err != nil {
			t.Fatal(err)
		}
		l.CountPull(id, "anna", at.Add(time.Hour))
		l.CountPull(id, "bert", at.Add(2*time.Hour))
	}
	want := map[string]ledger.Usage{"ex-a": {2, 4, at.Add(2 * time.Hour)}, "cfg-b": {1, 2, at.Add(2 * time.Hour)}}
	l.Close() // which writes what is counted
	l = open(t, dsn)
	defer l.Close()
	if got, err := l.ExceptionUses(ctx); err != nil || !maps.Equal(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	pulls, err := l.PullsOf(ctx, []string{"tg-1", "tg-3", "tg-none"})
	if err != nil || len(pulls) != 2 || len(pulls["tg-3"]) != 2 || pulls["tg-1"][0].Client != "anna" {
		t.Errorf("the pulls are %+v, %v", pulls, err)
	}
	if j, err := l.LatestOf(ctx, "", "", ""); err != nil || j.ID != "tg-3" {
		t.Errorf("the latest is %+v, %v", j, err)
	}
}

func TestTrials(t *testing.T) {
	ctx := context.Background()
	l := open(t, "sqlite::memory:")
	defer l.Close()
	at := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	for i, id := range []string{"tg-1", "tg-2"} {
		if err := l.Record(ctx, ledger.Judgement{ID: id, Key: id, JudgedAt: at.Add(time.Duration(i) * time.Hour)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	record := func(revision string, at time.Time, ids ...string) {
		t.Helper()
		var differences []ledger.Trial
		for _, id := range ids {
			differences = append(differences, ledger.Trial{Judgement: id, Action: "block", Reasons: []byte(`[]`), At: at})
		}
		counts := ledger.TrialCounts{Tried: 5, Failed: 1, Missed: 2, First: at, Last: at}
		if err := l.RecordTrials(ctx, revision, differences, counts); err != nil {
			t.Fatal(err)
		}
	}
	record("one", at, "tg-1", "tg-2")
	record("one", at.Add(time.Hour), "tg-2")
	record("two", at)
	if c, err := l.TrialCounts(ctx, "one"); err != nil || c != (ledger.TrialCounts{Tried: 10, Failed: 2, Missed: 4, First: at, Last: at.Add(time.Hour)}) {
		t.Errorf("the counts are %+v, %v", c, err)
	}
	if c, err := l.TrialCounts(ctx, "three"); err != nil || c != (ledger.TrialCounts{}) {
		t.Errorf("of none the counts are %+v, %v", c, err)
	}
	all, err := l.Trials(ctx, "one", time.Time{})
	if err != nil || len(all) != 2 || !all["tg-2"].At.Equal(at.Add(time.Hour)) || string(all["tg-1"].Reasons) != "[]" {
		t.Errorf("got %+v, %v", all, err)
	}
	if some, err := l.Trials(ctx, "one", at.Add(time.Minute)); err != nil || len(some) != 1 {
		t.Errorf("since then %+v, %v", some, err)
	}
	if none, err := l.Trials(ctx, "two", time.Time{}); err != nil || len(none) != 0 {
		t.Errorf("of the other %+v, %v", none, err)
	}
}
