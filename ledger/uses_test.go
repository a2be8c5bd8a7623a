package ledger_test

import (
	"context"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/ledger"
)

func TestUsesSurviveARestart(t *testing.T) {
	ctx := context.Background()
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "ledger.db")
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	now := time.Date(2027, 1, 31, 12, 0, 0, 5, time.UTC)

	l := open(t, dsn)
	for _, at := range []map[digest.Digest]time.Time{
		{a: now, b: now.Add(-time.Hour), c: now},
		{a: now.Add(-time.Minute), b: now.Add(time.Hour)}, // one of them from long ago
		{},
	} {
		if err := l.RecordUses(ctx, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.ForgetUses(ctx, []digest.Digest{c, digest.FromString("never seen")}); err != nil {
		t.Fatal(err)
	}
	l.Close()

	l = open(t, dsn)
	defer l.Close()
	got, err := l.Uses(ctx)
	if want := map[digest.Digest]time.Time{a: now, b: now.Add(time.Hour)}; err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestScrubIsRemembered(t *testing.T) {
	ctx := context.Background()
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, dsn)
	if started, finished, at, err := l.Scrub(ctx); err != nil || !started.IsZero() || !finished.IsZero() || at != "" {
		t.Fatalf("before the first: %v %v %q %v", started, finished, at, err)
	}
	began := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	halfway := digest.FromString("halfway")
	for _, at := range []digest.Digest{"", halfway} {
		if err := l.RecordScrub(ctx, began, time.Time{}, at); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	l = open(t, dsn)
	defer l.Close()
	if started, finished, at, err := l.Scrub(ctx); err != nil || !started.Equal(began) || !finished.IsZero() || at != halfway {
		t.Errorf("got %v %v %q %v", started, finished, at, err)
	}
}

func TestEvents(t *testing.T) {
	ctx := context.Background()
	l := open(t, "sqlite::memory:")
	defer l.Close()
	at := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	for i, kind := range []string{"damage.use", "damage.scrub", "damageless", "damage.use"} {
		if err := l.RecordEvent(ctx, ledger.Event{At: at.Add(time.Duration(i)), Kind: kind, Digest: digest.FromString(kind), Detail: "too short"}); err != nil {
			t.Fatal(err)
		}
	}
	list, count, err := l.Events(ctx, "damage.", 2)
	if err != nil || count != 3 || len(list) != 2 {
		t.Fatalf("%d of %d events, %v", len(list), count, err)
	}
	want := ledger.Event{At: at.Add(3), Kind: "damage.use", Digest: digest.FromString("damage.use"), Detail: "too short"}
	if list[0] != want || list[1].Kind != "damage.scrub" {
		t.Errorf("got %v, the newest should be %v", list, want)
	}
}

// BenchmarkRecordUses is what a busy gate writes every few seconds.
func BenchmarkRecordUses(b *testing.B) {
	l := open(b, "sqlite:"+filepath.Join(b.TempDir(), "ledger.db"))
	defer l.Close()
	at := map[digest.Digest]time.Time{}
	for i := range 1000 {
		at[digest.FromBytes([]byte{byte(i), byte(i >> 8)})] = time.Unix(int64(i), 0)
	}
	for b.Loop() {
		if err := l.RecordUses(b.Context(), at); err != nil {
			b.Fatal(err)
		}
	}
}
