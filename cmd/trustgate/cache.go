package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

func newCache() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Look after what the gate keeps of images",
		Long: `Look after the cache: the folder with every manifest and blob that was served,
each hashed when it came. It is a registry's own folder. A stock 'registry'
binary whose rootdirectory it is serves the same images.

The gate looks after it by itself: it holds it to cache.max_size, and hashes all
of it again every cache.scrub.every. These commands work on the same folder also
while the gate is running.`,
	}
	c.AddCommand(newCacheStats(), newCachePrune(), newCacheExport(), newCacheVerify())
	return c
}

// withCache opens the cache and the ledger of the configuration for the time of
// f. It keeps nothing to a bound and starts no scrub.
func withCache(c *cobra.Command, f func(context.Context, *cache.Cache, *ledger.Ledger) error) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	cfg.Log.Level = "error"
	log, err := newLog(c.ErrOrStderr(), cfg.Log)
	if err != nil {
		return err
	}
	l, err := ledger.Open(c.Context(), cfg.LedgerDSN())
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	store, err := openCache(c.Context(), cfg, l, log)
	if err != nil {
		return errors.Join(fmt.Errorf("opening the cache: %w", err), l.Close())
	}
	return errors.Join(f(c.Context(), store, l), store.Close(), l.Close())
}

// stats is what there is to know about the cache.
type stats struct {
	Root         string     `json:"root,omitempty"`
	Bytes        int64      `json:"bytes"`
	MaxSize      int64      `json:"max_size"`
	Pinned       int64      `json:"pinned_bytes"`
	Content      int        `json:"content"` // blobs and manifests
	Repositories int        `json:"repositories"`
	Manifests    int        `json:"manifests"` // that a repository has
	Images       int        `json:"images"`
	Incomplete   int        `json:"incomplete_images"`
	Tags         int        `json:"tags"`
	Scrub        scrubStats `json:"scrub"`
	Damage       damage     `json:"damage"`
}

type scrubStats struct {
	Every    string     `json:"every"`
	Finished *time.Time `json:"finished,omitempty"`
	Started  *time.Time `json:"under_way_since,omitempty"`
}

type damage struct {
	Count  int64         `json:"count"`
	Newest []damageEvent `json:"newest"`
}

type damageEvent struct {
	At     time.Time     `json:"at"`
	Found  string        `json:"found"`
	Digest digest.Digest `json:"digest"`
	Detail string        `json:"detail"`
}

// damageShown is how many events are shown.
const damageShown = 10

func newCacheStats() *cobra.Command {
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show what is in the cache",
		Long: `Show how large the cache is, what is in it, when all of it was hashed last, and
what was found to be damaged.

An image is incomplete when some of its blobs were never pulled, or were dropped
because they were damaged. The gate fetches them when somebody asks.`,
		Args: cobra.NoArgs,
	}
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		l, err := ledger.Open(c.Context(), cfg.LedgerDSN())
		if err != nil {
			return fmt.Errorf("opening the ledger: %w", err)
		}
		defer l.Close()
		s, err := readStats(c.Context(), cfg, l)
		if err != nil {
			return err
		}
		if out.json() {
			return writeJSON(c.OutOrStdout(), s)
		}
		return writeStats(c.OutOrStdout(), s)
	}
	return c
}

func readStats(ctx context.Context, cfg *config.Config, l *ledger.Ledger) (stats, error) {
	driver, root, err := cacheStorage(cfg)
	if err != nil {
		return stats{}, fmt.Errorf("opening the cache: %w", err)
	}
	found, err := cache.Survey(ctx, driver)
	if err != nil {
		return stats{}, err
	}
	s := stats{
		Root: root, Bytes: found.Bytes(), MaxSize: int64(cfg.Cache.MaxSize), Content: len(found.Content),
		Scrub: scrubStats{Every: cfg.Cache.Scrub.Every.String()}, Damage: damage{Newest: []damageEvent{}},
	}
	for _, r := range found.Repositories {
		if len(r.Manifests) > 0 {
			s.Repositories++
		}
		s.Manifests += len(r.Manifests)
		s.Tags += len(r.Tags)
		for _, m := range r.Manifests {
			if m.Kind != oci.KindImage && m.Kind != oci.KindArtifact {
				continue
			}
			s.Images++
			if len(found.Missing(r, m)) > 0 {
				s.Incomplete++
			}
		}
	}
	pins, err := pinned(cfg)
	if err != nil {
		return stats{}, err
	}
	for d := range found.Pinned(pins) {
		s.Pinned += found.Content[d].Size
	}
	started, finished, _, err := l.Scrub(ctx)
	if err != nil {
		return stats{}, err
	}
	if !finished.IsZero() {
		s.Scrub.Finished = &finished
	}
	if started.After(finished) {
		s.Scrub.Started = &started
	}
	events, count, err := l.Events(ctx, damageKind, damageShown)
	s.Damage.Count = count
	for _, e := range events {
		s.Damage.Newest = append(s.Damage.Newest, damageEvent{e.At, strings.TrimPrefix(e.Kind, damageKind), e.Digest, e.Detail})
	}
	return s, err
}

func writeStats(w io.Writer, s stats) error {
	p := paint(w)
	bound := "no bound"
	if s.MaxSize > 0 {
		bound = fmt.Sprintf("of %s, %d %%", bytesOf(s.MaxSize), s.Bytes*100/s.MaxSize)
	}
	if s.Root != "" {
		fmt.Fprintf(w, "folder        %s\n", plain(s.Root))
	}
	fmt.Fprintf(w, "size          %s (%s), %s of it pinned\n", bytesOf(s.Bytes), bound, bytesOf(s.Pinned))
	fmt.Fprintf(w, "content       %d blobs and manifests\n", s.Content)
	fmt.Fprintf(w, "images        %d, %d of them incomplete\n", s.Images, s.Incomplete)
	fmt.Fprintf(w, "manifests     %d, with indexes and signatures\n", s.Manifests)
	fmt.Fprintf(w, "repositories  %d, with %d tags\n", s.Repositories, s.Tags)
	scrub := "never"
	if s.Scrub.Finished != nil {
		scrub = "finished " + ago(*s.Scrub.Finished)
	}
	if s.Scrub.Started != nil {
		scrub += ", under way since " + s.Scrub.Started.Local().Format(time.DateTime)
	}
	fmt.Fprintf(w, "scrub         %s\n", scrub)
	if s.Damage.Count == 0 {
		_, err := fmt.Fprintf(w, "damage        %s\n", p.green("none found"))
		return err
	}
	fmt.Fprintf(w, "damage        %s\n", p.red(fmt.Sprintf("found %d times", s.Damage.Count)))
	for _, e := range s.Damage.Newest {
		fmt.Fprintf(w, "  %s  %s, by %s: %s\n", e.At.Local().Format(time.DateTime), e.Digest, e.Found, plain(e.Detail))
	}
	return nil
}

func bytesOf(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// sizeFlag is a number of bytes on the command line, written as in the
// configuration.
type sizeFlag struct {
	size  config.Size
	given bool
}

func (f *sizeFlag) Type() string { return "size" }
func (f *sizeFlag) String() string {
	if !f.given {
		return ""
	}
	return bytesOf(int64(f.size))
}

func (f *sizeFlag) Set(s string) error {
	f.given = true
	return f.size.UnmarshalText([]byte(s))
}

// pruned is what a prune removed, or would.
type pruned struct {
	DryRun  bool       `json:"dry_run"`
	Before  int64      `json:"bytes_before"`
	After   int64      `json:"bytes_after"`
	Content int        `json:"content"`
	Pinned  int64      `json:"pinned_bytes"`
	Images  []unlinked `json:"images"`
}

type unlinked struct {
	Repository string        `json:"repository"`
	Tags       []string      `json:"tags"`
	Digest     digest.Digest `json:"digest"`
}

func newCachePrune() *cobra.Command {
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what was used least recently",
		Long: `Remove content from the cache, what was used least recently first, until it has
no more than --to bytes, and all that was not used for --older-than. Without
either it goes down to cache.max_size.

An image goes as a whole, as far as a registry can see: with its first blob, its
tags and manifest leave every repository that has them. What is pulled again is
fetched again. Images that cache.pinned names stay.

It is safe beside a running gate on the same folder. Both take the lock in it
before they change links; a pull that is under way reads its blob to the end, one
that is being filled is not in the folder yet; and the gate sees that links were
removed, and makes them anew when the image is pulled.`,
		Example: `  trustgate cache prune --older-than 720h --dry-run
  trustgate cache prune --to 20GiB`,
		Args: cobra.NoArgs,
	}
	var to sizeFlag
	c.Flags().Var(&to, "to", "bytes that may stay, such as 20GiB")
	older := c.Flags().Duration("older-than", 0, "remove what was not used for so long, such as 720h")
	dry := c.Flags().Bool("dry-run", false, "show what would go, and remove nothing")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		p := cache.Pruning{To: -1, DryRun: *dry}
		switch {
		case *older < 0:
			return &usageError{c.CommandPath(), errors.New("--older-than cannot be negative")}
		case *older > 0:
			p.Unused = time.Now().Add(-*older)
		}
		if to.given {
			p.To = int64(to.size)
		} else if *older == 0 {
			cfg, err := loadConfig(c)
			if err != nil {
				return err
			}
			if p.To = int64(cfg.Cache.MaxSize); p.To == 0 {
				return &usageError{c.CommandPath(), errors.New("cache.max_size is no bound; say --to or --older-than")}
			}
		}
		return withCache(c, func(ctx context.Context, store *cache.Cache, _ *ledger.Ledger) error {
			done := progress(c.ErrOrStderr(), "pruning")
			result, err := store.Prune(ctx, p)
			done()
			if err != nil {
				return err
			}
			shown := pruned{DryRun: *dry, Before: result.Before, After: result.After, Content: result.Content, Pinned: result.Pinned, Images: []unlinked{}}
			for _, u := range result.Unlinked {
				shown.Images = append(shown.Images, unlinked{u.Repository, orEmpty(u.Tags), u.Digest})
			}
			if out.json() {
				return writeJSON(c.OutOrStdout(), shown)
			}
			return writePruned(c.OutOrStdout(), c.ErrOrStderr(), shown, p.To)
		})
	}
	return c
}

func writePruned(w, notes io.Writer, p pruned, to int64) error {
	if len(p.Images) > 0 {
		t := table(w, "REPOSITORY", "TAGS", "DIGEST")
		for _, u := range p.Images {
			fmt.Fprintf(t, "%s\t%s\t%s\n", u.Repository, strings.Join(u.Tags, ","), u.Digest.Encoded()[:12])
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	removed := "removed"
	if p.DryRun {
		removed = "would remove"
	}
	if _, err := fmt.Fprintf(w, "%s %s in %d blobs and manifests; %s stay\n", removed, bytesOf(p.Before-p.After), p.Content, bytesOf(p.After)); err != nil {
		return err
	}
	if to >= 0 && p.After > to {
		_, err := fmt.Fprintf(notes, "more than %s stay: %s are pinned, and what is on its way cannot go\n", bytesOf(to), bytesOf(p.Pinned))
		return err
	}
	return nil
}

// copied is one image of an export.
type copied struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	State     string        `json:"state"`
	Detail    string        `json:"detail,omitempty"`
	Bytes     int64         `json:"bytes"`
}

func newCacheExport() *cobra.Command {
	c := &cobra.Command{
		Use:   "export DIR|FILE.tar",
		Short: "Copy served images into an OCI image layout",
		Long: `Copy the images of the cache into an OCI image layout: a new or empty folder, or
a tar file when the name ends in .tar. Every byte is hashed on the way.

Only images that the gate serves by its last decision are copied, and only those
of which the cache has everything. The others are listed with what they lack:
pull them once through the gate and export again. Of an image for many platforms
those are copied that were pulled.

--repository takes a pattern of repositories with their registry, and perhaps of
tags, as cache.pinned does; * stops at a slash and ** does not.`,
		Example: `  trustgate cache export /media/usb/images --repository 'registry.acme.example/base/*'
  trustgate cache export images.tar --repository docker.io/library/debian:12
  skopeo copy oci:/media/usb/images:registry.acme.example/base/os:1 docker://offline.example/base/os:1
  ctr images import images.tar`,
		Args: cobra.ExactArgs(1),
	}
	patterns := c.Flags().StringArray("repository", nil, "only these repositories, or with :tag only these images (may be repeated)")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var only []cache.Pin
		for _, s := range *patterns {
			pin, err := cache.ParsePin(s)
			if err != nil {
				return &usageError{c.CommandPath(), fmt.Errorf("--repository: %w", err)}
			}
			only = append(only, pin)
		}
		return withCache(c, func(ctx context.Context, store *cache.Cache, l *ledger.Ledger) error {
			var written atomic.Int64
			done := progressOf(c.ErrOrStderr(), func() string { return "exporting, " + bytesOf(written.Load()) })
			result, err := store.Export(ctx, args[0], only, lastDecision(ctx, l), func(n int64) { written.Add(n) })
			done()
			if err != nil {
				return err
			}
			if len(result) == 0 {
				return errors.New("the cache has no such image; 'trustgate cache stats' shows what it has, and a pull through the gate fills it")
			}
			list := []copied{}
			for _, i := range result {
				name := i.Reference.Name()
				if tag := i.Reference.Tag(); tag != "" {
					name += ":" + tag
				}
				list = append(list, copied{name, i.Reference.Digest(), i.State, i.Detail, i.Bytes})
			}
			if out.json() {
				return writeJSON(c.OutOrStdout(), list)
			}
			return writeExport(c.OutOrStdout(), list)
		})
	}
	return c
}

// lastDecision refuses what the gate would not serve by its last decision under
// the tag: links are made when an image is served and outlive the verdict.
func lastDecision(ctx context.Context, l *ledger.Ledger) cache.Choice {
	return func(ref oci.Reference, kind oci.Kind) (refusal string, err error) {
		decisions, err := l.Served(ctx, ref.Name(), ref.Digest()) // newest first
		if err != nil {
			return "", err
		}
		var last *ledger.Judgement
		for i, j := range decisions {
			if j.Tag == ref.Tag() {
				last = &decisions[i]
				break
			}
		}
		switch {
		case last == nil && len(decisions) > 0:
			last = &decisions[0]
		case last == nil && (kind == oci.KindEvidence || kind == oci.KindIndex):
			return "", nil // nothing runs them: signatures, or what is asked about one by one
		case last == nil:
			return "the ledger has no decision on it", nil
		}
		if policy.Stricter(policy.Action(last.Action), policy.Annotate) == policy.Block {
			return "blocked by decision " + last.ID, nil
		}
		return "", nil
	}
}

func writeExport(w io.Writer, list []copied) error {
	t := table(w, "STATE", "IMAGE", "DIGEST", "")
	exported, size := 0, int64(0)
	for _, i := range list {
		if i.State == cache.Exported {
			exported++
		}
		size += i.Bytes
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", i.State, i.Reference, i.Digest.Encoded()[:12], plain(i.Detail))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "exported %d of %d images, %s\n", exported, len(list), bytesOf(size))
	return err
}

// verified is the result of a scrub.
type verified struct {
	Content    int   `json:"content"`
	Bytes      int64 `json:"bytes"`
	Damaged    int   `json:"damaged"`
	Unreadable int   `json:"unreadable"`
}

func newCacheVerify() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify",
		Short: "Hash everything in the cache again, now",
		Long: `Hash all of the cache as fast as the disk allows. The gate does the same in the
background, slowly. What is wrong is dropped, to be fetched again when somebody
asks for it, and recorded: 'trustgate cache stats' shows it.

Exit code 1 says that something was wrong or could not be read.`,
		Args: cobra.NoArgs,
	}
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withCache(c, func(ctx context.Context, store *cache.Cache, l *ledger.Ledger) error {
			var hashed atomic.Int64
			done := progressOf(c.ErrOrStderr(), func() string { return "hashing, " + bytesOf(hashed.Load()) })
			pass, err := store.Scrub(ctx, "", 0, func(s cache.Scrubbed) { hashed.Store(s.Bytes) })
			done()
			if err != nil {
				return err
			}
			if err := l.RecordScrub(ctx, pass.Started, time.Now(), ""); err != nil {
				return err
			}
			v := verified{pass.Content, pass.Bytes, pass.Damaged, pass.Unreadable}
			if out.json() {
				err = writeJSON(c.OutOrStdout(), v)
			} else {
				_, err = fmt.Fprintf(c.OutOrStdout(), "hashed %d blobs and manifests, %s: %d damaged, %d unreadable\n", v.Content, bytesOf(v.Bytes), v.Damaged, v.Unreadable)
			}
			if err == nil && v.Damaged+v.Unreadable > 0 {
				err = errors.New("the cache was damaged; what was wrong has been dropped and is fetched again when it is pulled")
			}
			return err
		})
	}
	return c
}
