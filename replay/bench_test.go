package replay_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	_ "modernc.org/sqlite" // the ledger's own driver, to write past it

	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/replay"
)

// BenchmarkReplay is a replay of a hundred thousand decisions, each over an input of
// its own that a gate has recorded about a signed image with provenance and a
// parent. It must take less than a minute on two processors:
//
//	go test ./replay -run '^$' -bench Replay/100000 -benchtime 1x
func BenchmarkReplay(b *testing.B) {
	for _, decisions := range []int{2_000, 100_000} {
		b.Run(fmt.Sprint(decisions), func(b *testing.B) { replayOf(b, decisions) })
	}
}

func replayOf(b *testing.B, decisions int) {
	s := stage.New(b)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	g := s.Gate(stage.Options{})
	a := s.Pull(g, app.Reference())
	input, err := g.Ledger.Input(b.Context(), a.Verdict.ID)
	s.Must(err)
	path := filepath.Join(b.TempDir(), "ledger.db")
	fill(s, path, string(input), app.Digest, decisions)
	l, err := ledger.Open(b.Context(), "sqlite:"+path)
	s.Must(err)
	defer l.Close()
	engine := another(s, true, `deny contains {"code": "acme.rule", "msg": "not these"} if endswith(input.image.digest, "0")`)
	for b.Loop() {
		report, err := replay.Run(b.Context(), l, engine, replay.Options{At: time.Now(), Progress: func(int, int) {}})
		s.Must(err)
		if report.Judgements != decisions || report.NotJudged+report.Unreadable != 0 || len(report.Changes.Blocked.Images) < decisions/32 {
			b.Fatalf("%d judged, %d not, %d newly blocked", report.Judgements, report.NotJudged, len(report.Changes.Blocked.Images))
		}
	}
	b.ReportMetric(float64(len(input)), "bytes/input")
	b.ReportMetric(float64(b.Elapsed().Seconds())/float64(b.N)/float64(decisions)*1e6, "µs/decision")
}

// fill writes a ledger in one transaction, as a year of pulls does one by one.
func fill(s *stage.Stage, path, input string, image digest.Digest, decisions int) {
	s.Helper()
	l, err := ledger.Open(s.Context(), "sqlite:"+path)
	s.Must(err)
	s.Must(l.Close())
	db, err := sql.Open("sqlite", path)
	s.Must(err)
	defer db.Close()
	tx, err := db.Begin()
	s.Must(err)
	pack, err := zstd.NewWriter(nil)
	s.Must(err)
	defer pack.Close()
	now := time.Now().UnixNano()
	for i := range decisions {
		d := digest.FromString(fmt.Sprint(i))
		document := []byte(strings.ReplaceAll(input, image.Encoded(), d.Encoded()))
		of, id := digest.FromBytes(document), fmt.Sprintf("tg-%d", i)
		_, err := tx.Exec(`INSERT INTO inputs (digest, content) VALUES (?, ?)`, of, pack.EncodeAll(document, nil))
		s.Must(err)
		_, err = tx.Exec(`INSERT INTO judgements (id, key, route, name, tag, digest, index_digest, policy_revision, trust_revision, evidence_digest,
			input_digest, action, before_mode, reasons, annotations, detail, judged_at, expires_at, took)
			VALUES (?, ?, 'r', 'r.example/app', ?, ?, '', 'p', 't', '', ?, 'serve', 'serve', '[]', '{}', '{}', ?, ?, 1)`, id, id, fmt.Sprint(i), d, of, now, now)
		s.Must(err)
		_, err = tx.Exec(`INSERT INTO pulls (id, client, count, first, last) VALUES (?, ?, 3, ?, ?)`, id, fmt.Sprintf("client-%d", i%100), now, now)
		s.Must(err)
	}
	s.Must(tx.Commit())
}
