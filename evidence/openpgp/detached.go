package openpgp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
)

const (
	// maxDetached bounds a detached signature with its armor, in bytes. One by
	// an RSA key of 16384 bits has about 3 kB.
	maxDetached = 64 << 10

	detachedType = "PGP SIGNATURE"
)

// VerifyDetached says who made a detached signature over signed, as
// 'gpg --detach-sign' makes it, armored or binary. Which keys count is decided
// as Verify decides it. madeAt is the time that the signature claims, whether or
// not it verifies. How long signed may be is for the caller to bound.
//
// https://www.rfc-editor.org/rfc/rfc9580#section-10.4
func VerifyDetached(signed, signature []byte, signers []Signer, now time.Time) (by evidence.Voucher, madeAt time.Time, err error) {
	m, err := openDetached(signed, signature)
	if err != nil {
		return evidence.Voucher{}, time.Time{}, err
	}
	madeAt, _ = m.lifetime()
	signer, err := m.madeBy(signers, now)
	if err != nil {
		return evidence.Voucher{}, madeAt, err
	}
	if err := m.stands(now); err != nil {
		return evidence.Voucher{}, madeAt, err
	}
	return evidence.Vouch(seal.Key{}, signer), madeAt, nil
}

// openDetached reads one signature packet and nothing else.
func openDetached(signed, signature []byte) (*message, error) {
	if len(signature) > maxDetached {
		return nil, fmt.Errorf("it has %d bytes, more than the %d of any detached signature", len(signature), maxDetached)
	}
	if bytes.HasPrefix(signature, []byte("-----BEGIN ")) {
		var err error
		if signature, err = unarmorDetached(signature); err != nil {
			return nil, err
		}
	}
	packets, err := split(signature)
	if err != nil {
		return nil, err
	}
	var tags []uint8
	for _, p := range packets {
		tags = append(tags, p.Tag)
	}
	switch {
	case len(tags) == 0:
		return nil, errors.New("it is empty")
	case bytes.Count(tags, []byte{tagSignature}) != len(tags):
		return nil, fmt.Errorf("it is not a detached signature: its packets are %v; sign with 'gpg --detach-sign'", tags)
	case len(tags) > 1:
		return nil, errors.New("it carries more than one signature; let each key sign by itself")
	}
	m := &message{body: signed}
	m.signature, err = parseSignature(packets[0])
	return m, err
}

// unarmorDetached returns what one armored block holds, and refuses text beside
// it.
func unarmorDetached(armored []byte) ([]byte, error) {
	const first, last = "-----BEGIN " + detachedType + "-----", "-----END " + detachedType + "-----"
	text := strings.TrimRight(string(armored), " \t\r\n")
	if line, _, _ := strings.Cut(text, "\n"); strings.TrimRight(line, " \t\r") != first {
		return nil, fmt.Errorf("it begins with %.80q, not with the armor of a detached signature; sign with 'gpg --armor --detach-sign'", line)
	}
	// The decoder takes text without an end, and does not look behind the end.
	switch end := strings.Index(text, last); {
	case end < 0:
		return nil, errors.New("its armor is damaged: it has no end")
	case end+len(last) != len(text):
		return nil, fmt.Errorf("text follows the end of its armor: %.80q", text[end+len(last):])
	}
	// One reader for both: the decoder reads ahead of what it decodes.
	in := bufio.NewReader(strings.NewReader(text))
	block, err := armor.Decode(in)
	if err != nil {
		return nil, fmt.Errorf("its armor is damaged: %w", err)
	}
	if block.Type != detachedType {
		return nil, fmt.Errorf("its armor is damaged: it holds a %.80q", block.Type)
	}
	body, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, fmt.Errorf("its armor is damaged: %w", err)
	}
	if rest, err := io.ReadAll(in); err != nil || (len(rest) > 0 && string(rest) != last) {
		return nil, errors.New("its armor is damaged: it goes on after its checksum")
	}
	return body, nil
}
