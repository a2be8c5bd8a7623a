package notation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/ocsp"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"
)

const (
	// askingTime bounds the questions about one chain.
	askingTime = 5 * time.Second

	// knownFor is how late a revocation is seen at most, and unknownFor how
	// late a responder that is there again.
	knownFor   = 5 * time.Minute
	unknownFor = 30 * time.Second

	// knownChains bounds what is remembered; a vendor has a few.
	knownChains = 256
)

// revocations asks about the certificates of one signer.
type revocations struct {
	enforce           bool
	signing, stamping revocation.Validator // nil asks nobody
	known             *lru.Cache[[sha256.Size]byte, answer]
}

type answer struct {
	until   time.Time
	results []*result.CertRevocationResult
}

func newRevocations(setting string, client *http.Client) (*revocations, error) {
	r := &revocations{}
	switch setting {
	case "", RevocationSoftFail:
	case RevocationSkip:
		return r, nil
	case RevocationEnforce:
		if client == nil {
			return nil, fmt.Errorf("its revocation is %q, and there is no network to ask on; use %q or %q", RevocationEnforce, RevocationSoftFail, RevocationSkip)
		}
		r.enforce = true
	default:
		return nil, fmt.Errorf("its revocation is %.80q; it can be %q, %q or %q", setting, RevocationSoftFail, RevocationEnforce, RevocationSkip)
	}
	if client == nil {
		return r, nil
	}
	fetcher, err := crl.NewHTTPFetcher(client)
	if err != nil {
		return nil, err
	}
	for use, into := range map[purpose.Purpose]*revocation.Validator{purpose.CodeSigning: &r.signing, purpose.Timestamping: &r.stamping} {
		if *into, err = revocation.NewWithOptions(revocation.Options{OCSPHTTPClient: client, CRLFetcher: fetcher, CertChainPurpose: use}); err != nil {
			return nil, err
		}
	}
	r.known, err = lru.New[[sha256.Size]byte, answer](knownChains)
	return r, err
}

// ask answers from memory or from the network.
func (r *revocations) ask(ctx context.Context, v revocation.Validator, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	hash := sha256.New()
	for _, cert := range o.CertChain {
		sum := sha256.Sum256(cert.Raw)
		hash.Write(sum[:])
	}
	key := [sha256.Size]byte(hash.Sum(nil))
	if a, ok := r.known.Get(key); ok && time.Now().Before(a.until) {
		return a.results, nil
	}
	bounded, cancel := context.WithTimeout(ctx, askingTime)
	defer cancel()
	results, err := v.ValidateContext(bounded, o)
	if err == nil {
		err = ctx.Err() // what was not answered then says nothing about the responders
	}
	if err != nil {
		return nil, err
	}
	lasts := knownFor
	if slices.ContainsFunc(results, func(r *result.CertRevocationResult) bool { return r.Result == result.ResultUnknown }) {
		lasts = unknownFor
	}
	r.known.Add(key, answer{time.Now().Add(lasts), results})
	return results, nil
}

// inquiry is what one verification asks. It keeps the reason for a no, of which
// notation's verifier passes on a part.
type inquiry struct {
	*revocations
	refused error
}

func (i *inquiry) of(v revocation.Validator) revocation.Validator { return question{i, v} }

type question struct {
	inquiry *inquiry
	ask     revocation.Validator
}

// ValidateContext implements revocation.Validator.
func (q question) ValidateContext(ctx context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	passed := make([]*result.CertRevocationResult, len(o.CertChain))
	for i := range passed {
		passed[i] = &result.CertRevocationResult{Result: result.ResultNonRevokable}
	}
	if q.ask == nil {
		return passed, nil
	}
	results, err := q.inquiry.revocations.ask(ctx, q.ask, o)
	if err != nil {
		q.inquiry.refused = fmt.Errorf("whether its certificates were revoked could not be asked: %w", err)
		return nil, q.inquiry.refused
	}
	for i, r := range results {
		if err := q.inquiry.judge(o.CertChain[i], r); err != nil {
			q.inquiry.refused = err
			return results, nil
		}
	}
	return passed, nil
}

// judge says what stands against a certificate.
func (r *revocations) judge(cert *x509.Certificate, found *result.CertRevocationResult) error {
	switch found.Result {
	case result.ResultOK, result.ResultNonRevokable:
		return nil
	case result.ResultRevoked:
		return fmt.Errorf("the certificate %s was revoked; sign the image again with another", subject(cert))
	}
	why := errors.New("nobody answered")
	for _, s := range found.ServerResults {
		var unheard ocsp.UnknownStatusError
		if errors.As(s.Error, &unheard) {
			return fmt.Errorf("the certificate %s is one that its CA's responder %s does not know", subject(cert), clip(s.Server))
		}
		if s.Error != nil {
			why = fmt.Errorf("%s: %w", clip(s.Server), s.Error)
		}
	}
	if r.enforce {
		return unanswered{fmt.Errorf("whether the certificate %s was revoked could not be learned, and the signer's revocation is %q: %w", subject(cert), RevocationEnforce, why)}
	}
	return nil
}

// unanswered is an error that asking again may mend.
type unanswered struct{ error }

// Temporary implements what evidence.Temporary asks for.
func (unanswered) Temporary() bool { return true }

func (u unanswered) Unwrap() error { return u.error }
