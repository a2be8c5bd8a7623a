package openpgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// maxMessage bounds a signed message and what it decompresses to, in bytes. A
// payload has a few hundred.
const maxMessage = 1 << 20

// The packet tags of which a signed message, or its wrong relative, is made.
//
// https://www.rfc-editor.org/rfc/rfc9580#section-5
const (
	tagEncryptedKey    = 1
	tagSignature       = 2
	tagSymmetricKey    = 3
	tagOnePass         = 4
	tagCompressed      = 8
	tagEncrypted       = 9
	tagLiteral         = 11
	tagEncryptedMDC    = 18
	tagEncryptedAEAD   = 20
	maxMessagePackets  = 8
	hashMD5            = 1
	hashSHA1           = 2
	hashRIPEMD160      = 3
	signatureVersion3  = 3
	armoredMessage     = "-----BEGIN PGP MESSAGE"
	armoredDetached    = "-----BEGIN PGP SIGNATURE"
	armoredClearSigned = "-----BEGIN PGP SIGNED MESSAGE"
	lookasideSigstore  = "\x00sigstore-json\n"
)

// message is a signed message before anything is verified.
type message struct {
	body      []byte
	signature *packet.Signature
}

// openMessage takes a signed message apart. It accepts one document with one
// signature around it, as 'gpg --sign' makes it, compressed or not, and nothing
// else: what a reader skips, another may believe.
//
// https://www.rfc-editor.org/rfc/rfc9580#section-10.3
func openMessage(raw []byte) (*message, error) {
	if len(raw) > maxMessage {
		return nil, fmt.Errorf("it has %d bytes, more than the %d of any image signature", len(raw), maxMessage)
	}
	for prefix, what := range map[string]string{
		armoredMessage:     "an armored message; image signatures are binary",
		armoredDetached:    "an armored detached signature; sign with 'gpg --sign' or 'skopeo standalone-sign'",
		armoredClearSigned: "a clear-signed text; sign with 'gpg --sign' or 'skopeo standalone-sign'",
		lookasideSigstore:  "a sigstore signature in an OpenPGP store",
	} {
		if bytes.HasPrefix(raw, []byte(prefix)) {
			return nil, fmt.Errorf("it is %s", what)
		}
	}
	packets, err := split(raw)
	if err != nil {
		return nil, err
	}
	if len(packets) == 1 && packets[0].Tag == tagCompressed {
		inner, err := decompress(packets[0])
		if err != nil {
			return nil, err
		}
		if packets, err = split(inner); err != nil {
			return nil, err
		}
	}
	signature, literal, err := arrangement(packets)
	if err != nil {
		return nil, err
	}
	m := &message{}
	if m.signature, err = parseSignature(signature); err != nil {
		return nil, err
	}
	parsed, err := literal.Parse()
	if err != nil {
		return nil, fmt.Errorf("the signed document: %w", err)
	}
	document, ok := parsed.(*packet.LiteralData)
	if !ok {
		return nil, errors.New("the signed document cannot be read")
	}
	if m.body, err = io.ReadAll(document.Body); err != nil {
		return nil, fmt.Errorf("the signed document: %w", err)
	}
	return m, nil
}

// split reads packets to the end.
func split(raw []byte) ([]*packet.OpaquePacket, error) {
	reader := packet.NewOpaqueReader(bytes.NewReader(raw))
	var packets []*packet.OpaquePacket
	for {
		p, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return packets, nil
		}
		if err != nil {
			return nil, fmt.Errorf("it is no OpenPGP message: %w", err)
		}
		if packets = append(packets, p); len(packets) > maxMessagePackets {
			return nil, fmt.Errorf("it has more than %d packets", maxMessagePackets)
		}
	}
}

func decompress(p *packet.OpaquePacket) ([]byte, error) {
	parsed, err := p.Parse()
	if err != nil {
		return nil, fmt.Errorf("its compression: %w", err)
	}
	compressed, ok := parsed.(*packet.Compressed)
	if !ok {
		return nil, errors.New("its compression is unknown")
	}
	inner, err := io.ReadAll(io.LimitReader(compressed.Body, maxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("its compression: %w", err)
	}
	if len(inner) > maxMessage {
		return nil, fmt.Errorf("it decompresses to more than %d bytes", maxMessage)
	}
	return inner, nil
}

// arrangement finds the signature and the document, or says what else it is.
func arrangement(packets []*packet.OpaquePacket) (signature, literal *packet.OpaquePacket, err error) {
	count := map[uint8]int{}
	var tags []uint8
	for _, p := range packets {
		count[p.Tag]++
		tags = append(tags, p.Tag)
	}
	encrypted := count[tagEncryptedKey] + count[tagSymmetricKey] + count[tagEncrypted] + count[tagEncryptedMDC] + count[tagEncryptedAEAD]
	switch {
	case bytes.Equal(tags, []byte{tagOnePass, tagLiteral, tagSignature}):
		return packets[2], packets[1], nil
	case bytes.Equal(tags, []byte{tagSignature, tagLiteral}):
		return packets[0], packets[1], nil
	case len(tags) == 0:
		return nil, nil, errors.New("it is empty")
	case encrypted > 0:
		return nil, nil, errors.New("it is encrypted; image signatures are only signed")
	case count[tagCompressed] > 0:
		return nil, nil, errors.New("it is compressed more than once, or beside something else")
	case count[tagLiteral] > 1:
		return nil, nil, fmt.Errorf("it carries %d documents", count[tagLiteral])
	case count[tagSignature] > 1 || count[tagOnePass] > 1:
		return nil, nil, errors.New("it carries more than one signature; let each key sign by itself")
	case count[tagLiteral] == 0 && count[tagSignature] > 0:
		return nil, nil, errors.New("it is a detached signature; sign with 'gpg --sign' or 'skopeo standalone-sign'")
	case count[tagSignature] == 0 && count[tagLiteral] > 0:
		return nil, nil, errors.New("it is not signed")
	}
	return nil, nil, fmt.Errorf("it is not a signed message: its packets are %v", tags)
}

// parseSignature reads the signature packet and refuses what is too weak or
// too unusual to verify, whoever made it.
func parseSignature(p *packet.OpaquePacket) (*packet.Signature, error) {
	// The library has no reader for these, so they are told apart by hand.
	if c := p.Contents; len(c) > 3 {
		if c[0] == signatureVersion3 {
			return nil, errors.New("it is an OpenPGP version 3 signature, which is obsolete; sign again with a current program")
		}
		if name, weak := map[byte]string{hashMD5: "MD5", hashSHA1: "SHA-1", hashRIPEMD160: "RIPEMD-160"}[c[3]]; weak && (c[0] == 4 || c[0] == 6) {
			return nil, fmt.Errorf("it was made with %s, which is too weak; sign again with --digest-algo SHA256 or better", name)
		}
	}
	parsed, err := p.Parse()
	if err != nil {
		return nil, fmt.Errorf("the signature packet: %w", err)
	}
	s, ok := parsed.(*packet.Signature)
	switch {
	case !ok:
		return nil, errors.New("the signature packet cannot be read")
	case s.Version != 4 && s.Version != 6:
		return nil, fmt.Errorf("it is an OpenPGP version %d signature, which TrustGate does not verify", s.Version)
	case s.SigType != packet.SigTypeBinary:
		return nil, fmt.Errorf("it is a signature of type 0x%02x, not one over a binary document", int(s.SigType))
	case s.IssuerKeyId == nil:
		return nil, errors.New("it does not say which key made it")
	case s.CreationTime.IsZero():
		return nil, errors.New("it does not say when it was made")
	case len(s.IntendedRecipients) > 0:
		return nil, errors.New("it is meant for one recipient")
	}
	for _, notation := range s.Notations {
		if notation.IsCritical {
			return nil, fmt.Errorf("it has the critical notation %.80q, which TrustGate does not know", notation.Name)
		}
	}
	return s, nil
}
