package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/ledger"
)

// TestDamageReachesLogMetricAndLedger of one cache, as the gate opens it.
func TestDamageReachesLogMetricAndLedger(t *testing.T) {
	cfg, err := config.Load("", []string{"TRUSTGATE_DATA=" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	book, err := ledger.Open(t.Context(), cfg.LedgerDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	metrics := prometheus.NewRegistry()
	core, logged := observer.New(zapcore.ErrorLevel)
	c, err := openCache(t.Context(), cfg, book, zap.New(core), countDamage(metrics))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	registerCache(metrics, c, int64(cfg.Cache.MaxSize))

	raw := bytes.Repeat([]byte("content "), 1000)
	d := digest.FromBytes(raw)
	if err := c.PutBytes(t.Context(), d, raw); err != nil {
		t.Fatal(err)
	}
	raw[7] ^= 1
	file := filepath.Join(cfg.CacheRoot(), "docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded(), "data")
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if pass, err := c.Scrub(t.Context(), "", 0, nil); err != nil || pass.Damaged != 1 {
		t.Fatalf("%+v, %v", pass, err)
	}

	if said := logged.FilterMessageSnippet("damaged").FilterField(zap.Stringer("digest", d)); said.Len() != 1 {
		t.Errorf("the log says %v", logged.All())
	}
	events, count, err := book.Events(t.Context(), damageKind, 10)
	if err != nil || count != 1 || events[0].Kind != "cache.damage.scrub" || events[0].Digest != d {
		t.Errorf("the ledger has %v, %v", events, err)
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, label := range m.Label {
				name += " " + label.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"trustgate_cache_damaged_total scrub":        1,
		"trustgate_cache_damaged_total use":          0,
		"trustgate_cache_scrubbed_bytes_total":       float64(len(raw)),
		"trustgate_cache_bytes":                      0, // it was dropped
		"trustgate_cache_limit_bytes":                50 << 30,
		"trustgate_cache_evicted_total":              0,
		"trustgate_cache_evicted_bytes_total":        0,
		"trustgate_cache_scrubbed_timestamp_seconds": 0,
	} {
		if value, there := got[name]; !there || value != want {
			t.Errorf("%s is %v, want %v (of %v)", name, value, want, got)
		}
	}
}
