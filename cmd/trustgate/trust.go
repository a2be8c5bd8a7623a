package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/evidence/gittag"
	"github.com/trustgate/trustgate/evidence/notation"
	"github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/evidence/sigstore"
	"github.com/trustgate/trustgate/gate"
)

// trust is the trust section with its keys loaded.
type trust struct {
	openpgp  []openpgp.Signer
	sigstore []sigstore.Signer
	notation []notation.Signer
	ssh      []gittag.SSHSigner
	builders []provenance.Builder
	roots    []gate.Root
	tags     *gittag.Verifier // nil when no git host may be asked
	revision string
}

// readTrust loads every key. The revision covers the section, the content of
// the keys, where evidence is looked for, and the program that verifies it.
func readTrust(cfg *config.Config) (*trust, error) {
	l := loader{cfg: cfg, trust: &trust{}}
	build := readBuildInfo()
	l.read = []any{build.Version, build.Revision, cfg.Trust}
	for _, r := range cfg.Routes {
		l.read = append(l.read, r.Registry, r.Lookaside)
	}
	for _, s := range cfg.Trust.Signers {
		if err := l.signer(s); err != nil {
			return nil, fmt.Errorf("the signer %q: %w", s.Name, err)
		}
	}
	t := l.trust
	for _, b := range cfg.Trust.Builders {
		t.builders = append(t.builders, provenance.Builder{ID: b.ID, Signers: b.Signers})
	}
	for _, r := range cfg.Trust.Roots {
		t.roots = append(t.roots, gate.Root{Digest: digest.Digest(r.Digest), Repository: r.Repository, Signers: r.Signers})
	}
	if err := l.git(cfg.Trust.Git); err != nil {
		return nil, fmt.Errorf("trust.git: %w", err)
	}
	written := sha256.New()
	if err := json.NewEncoder(written).Encode(l.read); err != nil {
		return nil, fmt.Errorf("hashing the trust configuration: %w", err)
	}
	t.revision = fmt.Sprintf("%x", written.Sum(nil)[:16])
	return t, nil
}

// loader fills a trust in and remembers everything that it read.
type loader struct {
	cfg *config.Config
	*trust
	read []any
}

// file reads a file that the configuration names; "" names none.
func (l *loader) file(path config.Path) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := readKeyFile(string(path))
	l.read = append(l.read, raw)
	return raw, err
}

func (l *loader) signer(s config.Signer) error {
	switch {
	case s.OpenPGP != nil:
		raw, err := l.file(s.OpenPGP.Keyring)
		if err != nil {
			return err
		}
		return add(&l.openpgp, s.OpenPGP.Keyring)(openpgp.LoadSigner(s.Name, raw))
	case s.Cosign != nil:
		raw, err := l.file(s.Cosign.Key)
		if err != nil {
			return err
		}
		return add(&l.sigstore, s.Cosign.Key)(sigstore.LoadKey(s.Name, raw))
	case s.Keyless != nil:
		return l.keyless(s.Name, *s.Keyless)
	case s.Certificate != nil:
		return l.certificate(s.Name, *s.Certificate)
	case s.Notation != nil:
		return l.notary(s.Name, *s.Notation)
	default:
		raw, err := l.file(s.SSH.Keys)
		if err != nil {
			return err
		}
		return add(&l.ssh, s.SSH.Keys)(gittag.LoadSSHSigner(s.Name, raw))
	}
}

// add appends what a loader returned; its error names the file.
func add[S any](list *[]S, path config.Path) func(S, error) error {
	return func(signer S, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		*list = append(*list, signer)
		return nil
	}
}

func (l *loader) keyless(name string, c config.KeylessSigner) error {
	root, err := l.file(c.Root)
	if err != nil {
		return err
	}
	return add(&l.sigstore, c.Root)(sigstore.LoadKeyless(name, root, sigstore.Identity{
		Subject: c.Subject, SubjectRegexp: c.SubjectRegexp, Issuer: c.Issuer, IssuerRegexp: c.IssuerRegexp,
		SourceRepository: c.SourceRepository, SourceRef: c.SourceRef,
	}, sigstore.KeylessOptions{WithoutSCT: c.WithoutSCT, WithoutLog: c.WithoutLog, Timestamps: c.Timestamps}))
}

func (l *loader) certificate(name string, c config.CertificateSigner) error {
	ca, err := l.file(c.CA)
	if err != nil {
		return err
	}
	root, err := l.file(c.Root)
	if err != nil {
		return err
	}
	return add(&l.sigstore, c.CA)(sigstore.LoadCertificate(name, ca,
		sigstore.Identity{Subject: c.Subject, SubjectRegexp: c.SubjectRegexp},
		sigstore.CertificateOptions{TrustedRoot: root, Log: c.Log, Timestamps: c.Timestamps}))
}

func (l *loader) notary(name string, c config.NotationSigner) error {
	ca, err := l.file(c.CA)
	if err != nil {
		return err
	}
	tsa, err := l.file(c.TSA)
	if err != nil {
		return err
	}
	return add(&l.notation, c.CA)(notation.LoadSigner(name, notation.Options{
		CA: ca, Identities: c.Identities, TSA: tsa, Revocation: c.Revocation,
		HTTP: &http.Client{Timeout: time.Duration(l.cfg.Verdicts.Deadline) / 2},
	}))
}

func (l *loader) git(c config.Git) error {
	if len(c.Hosts) == 0 {
		return nil
	}
	ca, err := l.file(c.CA)
	if err != nil {
		return err
	}
	l.tags, err = gittag.New(gittag.Options{
		OpenPGP: l.openpgp, SSH: l.ssh, Hosts: c.Hosts, Private: c.Private, Insecure: c.Insecure, CA: ca,
		MaxBytes: int64(c.MaxSize), Timeout: time.Duration(c.Timeout),
	})
	return err
}
