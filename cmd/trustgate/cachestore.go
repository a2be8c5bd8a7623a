package main

import (
	"context"
	"fmt"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/ledger"
)

// damageKind begins the kind of an event in the ledger; how the damage was found
// follows.
const damageKind = "cache.damage."

func cacheStorage(cfg *config.Config) (storagedriver.StorageDriver, string, error) {
	name, parameters := cfg.CacheDriver()
	driver, err := cache.OpenDriver(name, parameters)
	root := ""
	if name == "filesystem" {
		root = cfg.CacheRoot()
	}
	return driver, root, err
}

// openCache opens the cache of the configuration. What it finds damaged is told
// to all of those who are named and recorded in the ledger.
func openCache(ctx context.Context, cfg *config.Config, l *ledger.Ledger, log *zap.Logger, told ...func(cache.Damage)) (*cache.Cache, error) {
	driver, root, err := cacheStorage(cfg)
	if err != nil {
		return nil, err
	}
	o := cache.Options{
		Driver: driver, Root: root, Spool: cfg.Spool(), MaxSize: int64(cfg.Cache.MaxSize),
		Scrub:   cache.Schedule{Every: time.Duration(cfg.Cache.Scrub.Every), Rate: int64(cfg.Cache.Scrub.Rate)},
		Records: l, Log: log,
	}
	if o.Pinned, err = pinned(cfg); err != nil {
		return nil, err
	}
	o.Damaged = func(ctx context.Context, d cache.Damage) {
		for _, tell := range told {
			tell(d)
		}
		ctx, cancel := context.WithTimeout(ctx, closing)
		defer cancel()
		if err := l.RecordEvent(ctx, ledger.Event{At: d.Time, Kind: damageKind + d.Found, Digest: d.Digest, Detail: d.Detail}); err != nil {
			log.Error("damage in the cache could not be recorded", zap.Stringer("digest", d.Digest), zap.Error(err))
		}
	}
	return cache.Open(ctx, o)
}

func pinned(cfg *config.Config) (pins []cache.Pin, err error) {
	for _, p := range cfg.Cache.Pinned {
		pin, err := cache.ParsePin(p)
		if err != nil {
			return nil, fmt.Errorf("cache.pinned: %w", err)
		}
		pins = append(pins, pin)
	}
	return pins, nil
}

// countDamage makes the metric of damaged content, for alerts: it stays 0 on a
// healthy disk.
func countDamage(registerer prometheus.Registerer) func(cache.Damage) {
	damaged := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "trustgate_cache_damaged_total", Help: "Cached blobs and manifests that did not match their digest and were dropped, by how it was found.",
	}, []string{"found"})
	registerer.MustRegister(damaged)
	for _, found := range []string{cache.FoundByUse, cache.FoundByScrub} {
		damaged.WithLabelValues(found)
	}
	return func(d cache.Damage) { damaged.WithLabelValues(d.Found).Inc() }
}

// registerCache shows what the cache knows of itself.
func registerCache(registerer prometheus.Registerer, c *cache.Cache, bound int64) {
	gauge := func(name, help string, value func(cache.Counts) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(c.Counts()) })
	}
	counter := func(name, help string, value func(cache.Counts) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value(c.Counts())) })
	}
	registerer.MustRegister(
		gauge("trustgate_cache_bytes", "Bytes of content in the cache.", func(n cache.Counts) float64 { return float64(n.Bytes) }),
		gauge("trustgate_cache_limit_bytes", "Bytes that may stay in the cache; 0 is no bound.", func(cache.Counts) float64 { return float64(bound) }),
		gauge("trustgate_cache_scrubbed_timestamp_seconds", "When this process last hashed all of the cache again; 0 if it has not.", func(n cache.Counts) float64 {
			if n.Scrubbed.IsZero() {
				return 0
			}
			return float64(n.Scrubbed.UnixNano()) / 1e9
		}),
		counter("trustgate_cache_evicted_total", "Blobs and manifests evicted from the cache.", func(n cache.Counts) int64 { return n.Evicted }),
		counter("trustgate_cache_evicted_bytes_total", "Bytes evicted from the cache.", func(n cache.Counts) int64 { return n.EvictedBytes }),
		counter("trustgate_cache_scrubbed_bytes_total", "Bytes of the cache that were hashed again in the background.", func(n cache.Counts) int64 { return n.ScrubbedBytes }),
	)
}
