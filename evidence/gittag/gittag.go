// Package gittag asks a git repository who stands behind a revision: which
// signed tag points at it, and who signed the commit itself. In the same
// conversation it reads one file as it is at that revision.
//
// Nothing is verified but by a key that the configuration names, over the bytes
// of the object as git stores them. A signature names no repository, and need
// not: it names the revision, and the revision is the hash of its content. That
// hash is SHA-1, so objects that were made to collide are refused.
//
// It must never reach a host that the configuration does not list, and never
// this machine or its networks unless told so: where a source lies is a
// stranger's word.
//
// https://git-scm.com/docs/signature-format
package gittag

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/giturl"
	"github.com/trustgate/trustgate/evidence/internal/pattern"
	"github.com/trustgate/trustgate/evidence/openpgp"
)

// What stands in for the options that are zero.
const (
	// DefaultMaxBytes holds the list of refs of all but the largest
	// repositories; the objects are small beside it.
	DefaultMaxBytes = 32 << 20
	DefaultTimeout  = 20 * time.Second
	DefaultEntries  = 1024
)

const (
	// A signed tag may be deleted or its key revoked, but what it says of a
	// revision does not change.
	keepVerified = time.Hour
	// A tag may be pushed at any time.
	keepUnverified = time.Minute

	// concurrent look-ups: each may hold MaxBytes of tags and commits, and as
	// much of trees and files.
	concurrent = 4
	// maxRemembered is how long a file may be, in bytes, that is remembered; a
	// longer one is read anew, so that the memory stays small.
	maxRemembered = 64 << 10

	maxRef = 255
)

// ErrNotListed reports a repository that no pattern of Options.Hosts covers, so
// that nobody was asked about it.
var ErrNotListed = errors.New("not among the git hosts that TrustGate may ask")

// Options says whom to believe and whom to ask.
type Options struct {
	OpenPGP []openpgp.Signer
	SSH     []SSHSigner

	// Hosts are the repositories that may be asked, as globs over their URLs in
	// which `*` stays within one path segment and `**` crosses them. One without
	// a scheme means https, one without a path the whole host. None means
	// nobody.
	Hosts []string

	// Private allows hosts on private and loopback addresses. Link-local
	// addresses and those of metadata services are never asked.
	Private bool

	// Insecure allows http:// and git://, over which anybody on the way can
	// hide a tag. They cannot make one: that takes a signer's key.
	Insecure bool

	// CA is PEM certificates that are trusted beside the system's.
	CA []byte

	MaxBytes int64         // read for one look-up; DefaultMaxBytes when zero
	Timeout  time.Duration // of one look-up; DefaultTimeout when zero
	Entries  int           // results that are remembered; DefaultEntries when zero
	Now      func() time.Time
}

// Result is what a repository says of one revision.
type Result struct {
	Revision string
	Tag      Tag
	Commit   Commit
	File     File // the zero File when none was asked for
}

// Tag is the tag that points at the revision: a verified one if there is any,
// else the one that says best why there is none.
type Tag struct {
	Name     string // without refs/tags/; "" when there is none
	By       evidence.Voucher
	SignedAt time.Time // as the tag or its signature claims, zero when it does not
	Err      string    // why it is not verified
}

// Commit is the revision's own signature.
type Commit struct {
	By  evidence.Voucher
	Err string // why it is not verified
}

// File is a file of the repository at the revision. The revision commits to its
// content, whoever hands it out: it is as good as the word of who named the
// revision.
type File struct {
	Path    string
	Content string
	Err     string // why it could not be read
}

// Verifier asks repositories and remembers what they said.
type Verifier struct {
	openPGP  []openpgp.Signer
	ssh      []SSHSigner
	hosts    []pattern.Pattern
	insecure bool
	maxBytes int64
	timeout  time.Duration
	now      func() time.Time

	transport *http.Transport
	egress    *egress
	running   *semaphore.Weighted
	flights   singleflight.Group
	known     *lru.Cache[question, answer]
}

// question is what one look-up is about. Which tag explains a refusal depends
// on the ref, so it belongs to the question.
type question struct {
	repository, revision, ref string
	paths                     string // those of the file, a zero byte between them
}

func (q question) String() string {
	return q.repository + "\x00" + q.revision + "\x00" + q.ref + "\x00" + q.paths
}

type answer struct {
	result Result
	until  time.Time
}

// New makes a Verifier. Without signers it still says which tags are there.
func New(o Options) (*Verifier, error) {
	v := &Verifier{
		openPGP: o.OpenPGP, ssh: o.SSH, insecure: o.Insecure,
		maxBytes: o.MaxBytes, timeout: o.Timeout, now: o.Now,
		running: semaphore.NewWeighted(concurrent),
	}
	for _, h := range o.Hosts {
		p, err := compileHost(h)
		if err != nil {
			return nil, fmt.Errorf("the git host %.200q: %w", h, err)
		}
		v.hosts = append(v.hosts, p)
	}
	if v.maxBytes == 0 {
		v.maxBytes = DefaultMaxBytes
	}
	if v.timeout == 0 {
		v.timeout = DefaultTimeout
	}
	if o.Entries == 0 {
		o.Entries = DefaultEntries
	}
	if v.maxBytes < 0 || v.timeout < 0 || o.Entries < 0 {
		return nil, errors.New("a bound on git look-ups is negative; leave it out for the default")
	}
	if v.now == nil {
		v.now = time.Now
	}
	roots, err := rootsWith(o.CA)
	if err != nil {
		return nil, err
	}
	if v.known, err = lru.New[question, answer](o.Entries); err != nil {
		return nil, err
	}
	v.egress = newEgress(o.Private)
	v.transport = v.egress.transport(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots})
	return v, nil
}

// rootsWith is nil, the system's own, when there is no CA to add.
func rootsWith(ca []byte) (*x509.CertPool, error) {
	if len(ca) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the CA for git hosts holds no PEM certificate")
	}
	return pool, nil
}

// CheckHost says what is wrong with a pattern of Options.Hosts.
func CheckHost(s string) error {
	if _, err := compileHost(s); err != nil {
		return fmt.Errorf("the git host %.200q: %w", s, err)
	}
	return nil
}

// compileHost brings a pattern into the form in which repositories are compared.
func compileHost(s string) (pattern.Pattern, error) {
	if s == "" {
		return pattern.Compile(s)
	}
	s = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(s, "git+"), "/"), ".git")
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	if _, rest, _ := strings.Cut(s, "://"); !strings.Contains(rest, "/") {
		s += "/**"
	}
	return pattern.Compile(s)
}

func (v *Verifier) listed(repository string) bool {
	for _, p := range v.hosts {
		if p.Match(repository) {
			return true
		}
	}
	return false
}

// allowed brings the repository's URL into its plainest form, if it may be
// asked.
func (v *Verifier) allowed(repository string) (string, error) {
	parsed, err := giturl.Parse(repository)
	if err != nil {
		return "", &failure{text: fmt.Sprintf("the source %.200q: %v", repository, err), inner: err}
	}
	u := parsed.Repository
	scheme, _, _ := strings.Cut(u, "://")
	switch {
	case !v.listed(u):
		return "", &failure{text: fmt.Sprintf("%s is %v; list it if it is to be asked", u, ErrNotListed), inner: ErrNotListed}
	case scheme == "ssh":
		return "", &failure{text: fmt.Sprintf("%s is reached over SSH, with a login that TrustGate does not have; build from the repository's https:// URL", u)}
	case scheme != "https" && !v.insecure:
		return "", &failure{text: fmt.Sprintf("%s is not https; build from the repository's https:// URL, or allow insecure git hosts", u)}
	}
	return u, nil
}

var (
	sha1ID   = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sha256ID = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Find says who signed a tag at the revision, and who signed the revision. ref
// is the tag, or any other ref, that is said to have been built, or "": a tag of
// that name is preferred, and explains the refusal if no tag is verified.
//
// Of the paths, the first at which there is a file is read along. What keeps it
// from being read is said in Result.File, and no error.
//
// An error means that the repository could not be asked; what it says of itself,
// through a method Temporary() bool, is whether asking again may help.
func (v *Verifier) Find(ctx context.Context, repository, revision, ref string, paths ...string) (Result, error) {
	repository, err := v.allowed(repository)
	if err != nil {
		return Result{}, err
	}
	revision = strings.ToLower(revision)
	unverifiable := ""
	switch {
	case sha256ID.MatchString(revision):
		unverifiable = "the revision is of a repository with SHA-256 object names, which TrustGate does not read"
	case !sha1ID.MatchString(revision):
		unverifiable = fmt.Sprintf("%.80q is not the full name of a commit; record all 40 digits", revision)
	}
	if unverifiable != "" {
		result := Result{Revision: revision, Tag: Tag{Err: unverifiable}, Commit: Commit{Err: unverifiable}}
		if len(paths) > 0 {
			result.File = File{Path: paths[0], Err: unverifiable}
		}
		return result, nil
	}
	q := question{repository: repository, revision: revision, ref: plainRef(ref), paths: strings.Join(paths, "\x00")}
	// The look-up outlives the caller, so that one who hangs up does not cost
	// the others their answer.
	work := context.WithoutCancel(ctx)
	flight := v.flights.DoChan(q.String(), func() (any, error) { return v.ask(work, q) })
	select {
	case <-ctx.Done():
		return Result{}, &failure{
			text:  fmt.Sprintf("asking %s who signed %s: nobody waits for the answer any more", repository, revision),
			inner: ctx.Err(), temporary: true,
		}
	case landed := <-flight:
		if landed.Err != nil {
			return Result{}, landed.Err
		}
		return landed.Val.(Result), nil
	}
}

// plainRef is ref, or "" when it can be the name of no ref.
func plainRef(ref string) string {
	full := plumbing.ReferenceName(ref)
	if !strings.HasPrefix(ref, "refs/") {
		full = plumbing.NewTagReferenceName(ref)
	}
	if len(ref) > maxRef || full.Validate() != nil {
		return ""
	}
	return ref
}

// ask looks up one question and remembers the answer, but no error.
func (v *Verifier) ask(ctx context.Context, q question) (result Result, err error) {
	if known, ok := v.known.Get(q); ok && v.now().Before(known.until) {
		return known.result, nil
	}
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	s := &search{
		Verifier: v, question: q, meter: &meter{left: v.maxBytes},
		doing: fmt.Sprintf("asking %s who signed %s", q.repository, q.revision),
	}
	defer func() {
		// The bytes are foreign and the libraries that read them large; a panic
		// here would take the process with it.
		if p := recover(); p != nil {
			err = s.broken("reading what it sent failed: %v", p)
		}
	}()
	if err := v.running.Acquire(ctx, 1); err != nil {
		return Result{}, s.failed(ctx, err)
	}
	defer v.running.Release(1)
	if result, err = s.run(ctx); err != nil {
		return Result{}, err
	}
	keep := keepUnverified
	if result.Tag.By.Verified() && !s.again {
		keep = keepVerified
	}
	if len(result.File.Content) <= maxRemembered {
		v.known.Add(q, answer{result: result, until: v.now().Add(keep)})
	}
	return result, nil
}
