package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	_ "modernc.org/sqlite" // the ledger's driver

	"github.com/trustgate/trustgate/internal/shipyard"
)

// largeLedger measures TrustGate with a million verdicts behind it.
func largeLedger(ctx context.Context, w *world, r *report) error {
	byDigest := manifestPath(w.app, w.app.Digest.String())
	gate, err := w.startGate(ctx, "ledger", w.upstream.address)
	if err != nil {
		return err
	}
	defer func() { gate.stop() }()
	if err := serves(ctx, gate, byDigest); err != nil {
		return err
	}
	gate.stop()
	progress("writing %d verdicts", r.options.verdicts)
	if err := multiply(ctx, w.file("ledger/ledger.db"), r.options.verdicts); err != nil {
		return err
	}
	if gate, err = w.startGate(ctx, "ledger", w.upstream.address); err != nil {
		return err
	}
	gate.name = "with many verdicts"
	if err := serves(ctx, gate, byDigest); err != nil {
		return err
	}
	if err := serves(ctx, w.gate, byDigest); err != nil {
		return err
	}
	row := r.row(fmt.Sprintf("manifest by digest, GET, ledger of %d verdicts", r.options.verdicts), "answers/s")
	row.goals = []goal{{"trustgate", atLeast, 0.95}}
	page := r.row("list of 50 verdicts from it", "ms")
	page.most = 50
	for round := range r.options.rounds {
		progress("large ledger, round %d", round+1)
		servers := []*server{gate, w.gate}
		for i := range servers {
			s := servers[(i+round)%2]
			l, err := w.put(ctx, s, 64, r.options.time, byDigest)
			if err != nil {
				return err
			}
			row.add(s.name, l.perSecond)
		}
		began := time.Now()
		status, raw, err := fetch(ctx, "http://"+gate.admin+"/api/v1/verdicts?limit=50")
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("listing verdicts: %d %.300s %w", status, raw, err)
		}
		page.add("trustgate", time.Since(began).Seconds()*1e3)
	}
	return nil
}

// multiply copies the verdicts of a ledger that nobody has open, under other ids,
// keys and digests, until there are so many.
func multiply(ctx context.Context, file string, until int) (err error) {
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, `PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000`); err != nil {
		return err // it is thrown away after the measurement
	}
	rows, err := db.QueryContext(ctx, `SELECT name FROM pragma_table_info('judgements')`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var into, from []string
	for rows.Next() {
		var column string
		if err := rows.Scan(&column); err != nil {
			return err
		}
		if column == "seq" {
			continue
		}
		into = append(into, column)
		switch column {
		case "id":
			column = "lower(hex(randomblob(16)))"
		case "key":
			column = "key || '/' || n"
		case "digest", "input_digest":
			column = "'sha256:' || lower(hex(randomblob(32)))"
		case "judged_at", "expires_at":
			column += " - n * 1000000"
		}
		from = append(from, column)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf(`WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < ?)
		INSERT INTO judgements (%s) SELECT %s FROM counted, (SELECT * FROM judgements ORDER BY seq DESC LIMIT 1)`,
		strings.Join(into, ", "), strings.Join(from, ", ")), until)
	return err
}

// largeCache measures the start with ten thousand images in the cache.
func largeCache(ctx context.Context, w *world, r *report) error {
	gate, err := w.startGate(ctx, "cache", w.upstream.address)
	if err != nil {
		return err
	}
	defer func() { gate.stop() }()
	progress("publishing and pulling %d images", r.options.images)
	var pulling errgroup.Group
	pulling.SetLimit(4)
	for i := range r.options.images {
		pulling.Go(func() error {
			content, err := shipyard.Build(nil, map[string]string{"/n": fmt.Sprint(i)})
			if err != nil {
				return err
			}
			image, err := w.images.Push(ctx, fmt.Sprintf("unsigned/%d", i), "1", content)
			if err != nil {
				return err
			}
			if err := serves(ctx, gate, manifestPath(image, "1")); err != nil {
				return err
			}
			layer, err := layerPath(image)
			if err != nil {
				return err
			}
			if i%1000 == 999 {
				progress("%d images", i+1)
			}
			return serves(ctx, gate, layer)
		})
	}
	if err := pulling.Wait(); err != nil {
		return err
	}
	row := r.row(fmt.Sprintf("start to ready, cache of %d images", r.options.images), "ms")
	row.most = 500
	for round := range r.options.rounds {
		progress("start, round %d", round+1)
		gate.stop()
		if gate, err = w.startGate(ctx, "cache", w.upstream.address); err != nil {
			return err
		}
		row.add("trustgate", gate.ready.Seconds()*1e3)
		if err := serves(ctx, gate, "/v2/unsigned/0/manifests/1"); err != nil {
			return err
		}
	}
	return nil
}
