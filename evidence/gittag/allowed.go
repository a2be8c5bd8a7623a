package gittag

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// maxAllowed bounds an allowed signers file, in bytes.
	maxAllowed = 1 << 20
	// maxAllowedKeys bounds the keys of one.
	maxAllowedKeys = 1024

	minRSABits = 2048

	// namespace keeps a signature that was made over a file, or for a login, from
	// counting for a git object.
	namespace = "git"
)

// SSHSigner is a named party and the SSH keys that it signs with. The zero
// SSHSigner has none.
type SSHSigner struct {
	Name string // as in trust.signers
	keys []sshKey
}

// sshKey is one line of an allowed signers file.
type sshKey struct {
	public        ssh.PublicKey
	fingerprint   string
	after, before time.Time // zero when the line sets no bound
	forGit        bool
}

// Fingerprints lists the keys, in the file's order.
func (s SSHSigner) Fingerprints() []string {
	var list []string
	for _, k := range s.keys {
		list = append(list, k.fingerprint)
	}
	return list
}

// LoadSSHSigner reads an allowed signers file, as git's gpg.ssh.allowedSignersFile
// names it, or keys one a line, as an authorized_keys file without options holds
// them. The signer is the configuration's: who the lines say that the keys
// belong to is not looked at. It refuses what it cannot use rather than skip it.
//
// Keys whose time is over load, since a file that rotates holds such, and so do
// keys for other namespaces; what they sign is refused.
//
// https://man.openbsd.org/ssh-keygen#ALLOWED_SIGNERS
func LoadSSHSigner(name string, allowedSigners []byte) (SSHSigner, error) {
	signer := SSHSigner{Name: name}
	fail := func(err error) (SSHSigner, error) {
		return SSHSigner{}, fmt.Errorf("reading the allowed SSH keys of the signer %q: %w", name, err)
	}
	switch {
	case len(allowedSigners) > maxAllowed:
		return fail(fmt.Errorf("they have %d bytes, more than %d", len(allowedSigners), maxAllowed))
	case bytes.Contains(allowedSigners, []byte("PRIVATE KEY-----")):
		return fail(errors.New("it holds a private key, which must not be on this machine; take the .pub file beside it"))
	}
	n := 0
	for line := range bytes.Lines(allowedSigners) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseAllowed(line)
		if err != nil {
			return fail(fmt.Errorf("line %d: %w", n, err))
		}
		if signer.keys = append(signer.keys, k); len(signer.keys) > maxAllowedKeys {
			return fail(fmt.Errorf("it has more than %d keys", maxAllowedKeys))
		}
	}
	switch {
	case len(signer.keys) == 0:
		return fail(errors.New("there is no key in it; write '*' and the key's .pub file on one line"))
	case !slices.ContainsFunc(signer.keys, func(k sshKey) bool { return k.forGit }):
		return fail(fmt.Errorf("none of its keys is for the namespace %q; add it to a line's namespaces", namespace))
	}
	return signer, nil
}

// parseAllowed reads a line that is neither empty nor a comment:
//
//	[principals [options]] type key [comment]
func parseAllowed(line []byte) (sshKey, error) {
	// An authorized_keys line without options begins with the key itself. Where
	// there are options, the library takes principals for one of them.
	public, _, options, rest, err := ssh.ParseAuthorizedKey(line)
	if err != nil || len(options) > 0 {
		remainder, err := skipPrincipals(line)
		if err != nil {
			return sshKey{}, err
		}
		if public, _, options, rest, err = ssh.ParseAuthorizedKey(remainder); err != nil {
			return sshKey{}, fmt.Errorf("no key can be read from it: %w", err)
		}
	}
	if len(rest) > 0 {
		return sshKey{}, errors.New("it goes on after its end")
	}
	k := sshKey{public: public, fingerprint: ssh.FingerprintSHA256(public), forGit: true}
	if err := strongSSH(public); err != nil {
		return sshKey{}, fmt.Errorf("the key %s %w", k.fingerprint, err)
	}
	seen := map[string]bool{}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		key = strings.ToLower(key)
		if seen[key] {
			return sshKey{}, fmt.Errorf("the option %q is there twice", key)
		}
		seen[key] = true
		if err := k.option(key, value); err != nil {
			return sshKey{}, fmt.Errorf("the option %.40q: %w", key, err)
		}
	}
	if !k.after.IsZero() && !k.before.IsZero() && k.before.Before(k.after) {
		return sshKey{}, errors.New("valid-before is earlier than valid-after, so that the key never counts")
	}
	return k, nil
}

// skipPrincipals returns what follows the first field, which may be quoted.
func skipPrincipals(line []byte) ([]byte, error) {
	end := bytes.IndexAny(line, " \t")
	principals := line[:max(end, 0)]
	if line[0] == '"' {
		quote := bytes.IndexByte(line[1:], '"')
		if quote < 0 {
			return nil, errors.New("a quote has no end")
		}
		end = quote + 2
		principals = line[1 : end-1]
	}
	for p := range bytes.SplitSeq(principals, []byte(",")) {
		// An authorized_keys file has its options where the principals stand.
		if bytes.EqualFold(p, []byte("cert-authority")) {
			return nil, errCertAuthority
		}
	}
	switch {
	case len(principals) == 0:
		return nil, errors.New("it is neither a key nor a list of principals and a key")
	case bytes.ContainsAny(principals, `="`):
		return nil, fmt.Errorf("it begins with %.80q, which is an option; options follow the principals: write '*' before it", principals)
	case bytes.Contains(principals, []byte("!")):
		return nil, errors.New("it excludes principals, which TrustGate does not look at; list the keys that count")
	}
	return line[end:], nil
}

var errCertAuthority = errors.New("it is a certificate authority, and TrustGate does not verify SSH certificates; list the keys themselves")

func (k *sshKey) option(key, value string) (err error) {
	if key == "cert-authority" {
		return errCertAuthority
	}
	inner, isQuoted := strings.CutPrefix(value, `"`)
	inner, isEnded := strings.CutSuffix(inner, `"`)
	if !isQuoted || !isEnded || strings.ContainsAny(inner, `"\`) {
		return errors.New("its value is not in quotes")
	}
	switch key {
	case "namespaces":
		k.forGit, err = matchesNamespace(inner)
	case "valid-after":
		k.after, err = parseValidity(inner)
	case "valid-before":
		k.before, err = parseValidity(inner)
	default:
		err = errors.New("TrustGate does not know it, and will not ignore it")
	}
	return err
}

var namespacePattern = regexp.MustCompile(`^!?[A-Za-z0-9@._*?-]+$`)

// matchesNamespace says whether a list of patterns covers git's namespace. A
// pattern after "!" excludes, wherever it stands.
//
// https://man.openbsd.org/ssh_config#PATTERNS
func matchesNamespace(list string) (bool, error) {
	matches, excluded := false, false
	for p := range strings.SplitSeq(list, ",") {
		if !namespacePattern.MatchString(p) {
			return false, fmt.Errorf("%.80q is not a pattern", p)
		}
		p, excludes := strings.CutPrefix(p, "!")
		if ok, err := path.Match(p, namespace); err != nil {
			return false, err
		} else if ok {
			matches, excluded = true, excluded || excludes
		}
	}
	return matches && !excluded, nil
}

// parseValidity reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in the machine's
// own time zone unless a Z follows.
func parseValidity(s string) (time.Time, error) {
	digits, utc := strings.CutSuffix(s, "Z")
	zone := time.Local
	if utc {
		zone = time.UTC
	}
	const layout = "20060102150405"
	switch len(digits) {
	case 8, 12, 14:
		if t, err := time.ParseInLocation(layout[:len(digits)], digits, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%.40q is not a time as YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z for UTC", s)
}

// strongSSH refuses keys that can be forged or that TrustGate does not know; the
// error continues a sentence.
func strongSSH(public ssh.PublicKey) error {
	switch public.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		outer, ok := public.(ssh.CryptoPublicKey)
		if !ok {
			return errors.New("is an RSA key that cannot be read")
		}
		inner, ok := outer.CryptoPublicKey().(*rsa.PublicKey)
		if !ok {
			return errors.New("is an RSA key that cannot be read")
		}
		if bits := inner.N.BitLen(); bits < minRSABits {
			return fmt.Errorf("is an RSA key of %d bits, less than %d; make a new one", bits, minRSABits)
		}
		return nil
	case "ssh-dss":
		return errors.New("is a DSA key, which is too weak; make a new one")
	}
	if _, isCertificate := public.(*ssh.Certificate); isCertificate {
		return errors.New("is in a certificate, which TrustGate does not verify; list the key itself")
	}
	return fmt.Errorf("is of the type %.60q, which TrustGate does not accept", public.Type())
}
