package policyjson

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

const maxKey = 4 << 20 // bytes of a file that a policy.json names

// Converted is a configuration of TrustGate.
type Converted struct {
	Config []byte            // the YAML
	Rules  []byte            // the Rego, which the configuration looks for in RulesFile
	Files  map[string][]byte // keys that policy.json holds itself or that had to be put together, by path
}

// RulesFile is where the configuration looks for the rules, beside itself.
const RulesFile = "policyjson.rego"

//go:embed requirements.rego
var rules []byte

// publicRegistries are those that a policy.json without other words lets in, as the default
// configuration has them.
var publicRegistries = []string{"docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "mcr.microsoft.com", "gcr.io"}

// conversion collects what the configuration will say.
type conversion struct {
	name    string
	Routes  []route
	Signers []signer
	Notes   []string
	files   map[string][]byte
}

type route struct{ Registry, Upstream, From string }

type signer struct {
	Name, Kind, Settings, From string

	keys []string // fingerprints, as far as its file can be read
}

// demand is a requirement as the rules read it.
type demand struct {
	Type     string   `json:"type"`
	Kind     string   `json:"kind"` // of signatures; "" where none is demanded
	Signers  []string `json:"signers"`
	Identity identity `json:"identity"`
}

type identity struct {
	Type       string `json:"type"`
	Reference  string `json:"reference"`
	Repository string `json:"repository"`
	Prefix     string `json:"prefix"`
	Signed     string `json:"signed"`
}

// place is what is demanded of images somewhere, and which entry of policy.json says so.
type place struct {
	Entry   string   `json:"entry"`
	Demands []demand `json:"requirements"`
}

// Convert writes a configuration that demands what the policy does. name is what its
// comments call the policy. It reads the keys of certificate authorities and Rekors.
func Convert(name string, p *Policy) (*Converted, error) {
	c := &conversion{name: name, files: map[string][]byte{}}
	var failures []error
	places := map[string]place{}
	registries := map[string]string{} // with the entry that names each first
	for _, transport := range slices.Sorted(maps.Keys(p.Transports)) {
		if transport == "atomic" {
			failures = append(failures, errors.New("transports.atomic: images of OpenShift's own registry cannot be told from others here; write their scopes under transports.docker"))
		} else if transport != "docker" {
			c.Notes = append(c.Notes, fmt.Sprintf("transports.%s: no registry is asked for such images, so they never pass the gate; what is said of them stays with the clients.", transport))
		}
	}
	for _, scope := range slices.Sorted(maps.Keys(p.Transports["docker"])) {
		at := fmt.Sprintf("transports.docker[%q]", scope)
		if err := checkScope(scope); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", at, err))
			continue
		}
		demands, err := c.demands(at, p.Transports["docker"][scope])
		failures = append(failures, err)
		places[scope] = place{at, demands}
		switch host, _, _ := strings.Cut(scope, "/"); {
		case scope == "":
		case strings.HasPrefix(scope, "*."):
			c.Notes = append(c.Notes, fmt.Sprintf("%s: add a route for each registry that it means.", at))
		default:
			if registries[host] == "" {
				registries[host] = at
			}
		}
	}
	if _, there := places[""]; !there {
		demands, err := c.demands("default", p.Default)
		failures = append(failures, err)
		places[""] = place{"default", demands}
	}
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	if everywhere := places[""]; !slices.ContainsFunc(everywhere.Demands, func(d demand) bool { return d.Type == "reject" }) {
		for _, registry := range publicRegistries {
			if registries[registry] == "" {
				registries[registry] = everywhere.Entry
			}
		}
		c.Notes = append(c.Notes, everywhere.Entry+": policy.json lets images of every registry in, and the gate serves those that have a route.")
	}
	for _, registry := range slices.Sorted(maps.Keys(registries)) {
		upstream := "https://" + registry
		if registry == "docker.io" {
			upstream = "https://registry-1.docker.io"
		}
		c.Routes = append(c.Routes, route{registry, upstream, registries[registry]})
	}
	if len(c.Routes) == 0 {
		return nil, errors.New("it lets no image of any registry in, so there is nothing to serve")
	}
	return c.write(places)
}

// scopes are what containers/image compares with an image's place: a domain with its
// subdomains, or a registry, perhaps with namespaces, a repository, and a tag or a digest.
var scopes = regexp.MustCompile(`^(\*(\.[A-Za-z0-9-]+)+|[A-Za-z0-9.\[\]:-]+(/[a-z0-9._-]+)*((:[\w][\w.-]{0,127})?|@sha256:[0-9a-f]{64}))$`)

func checkScope(scope string) error {
	if scope != "" && !scopes.MatchString(scope) {
		return fmt.Errorf("no image of a registry is there, so it would never be asked for")
	}
	return nil
}

func (c *conversion) demands(at string, list []Requirement) ([]demand, error) {
	var all []demand
	var failures []error
	for i, r := range list {
		at := fmt.Sprintf("%s[%d]", at, i)
		d := demand{Type: r.Type, Signers: []string{}}
		var err error
		switch r.Type {
		case "signedBy":
			d.Kind = "openpgp"
			d.Signers, err = c.keys(at, r, "openpgp", "keyring", ".asc")
		case "sigstoreSigned":
			d.Kind = "cosign"
			d.Signers, err = c.sigstore(at, r)
		}
		if id := r.SignedIdentity; id != nil {
			d.Identity = identity{Type: id.Type, Reference: id.DockerReference, Repository: id.DockerRepository, Prefix: id.Prefix, Signed: id.SignedPrefix}
		}
		failures = append(failures, err)
		all = append(all, d)
	}
	return all, errors.Join(failures...)
}

func (c *conversion) sigstore(at string, r Requirement) ([]string, error) {
	rekor := r.RekorPublicKeyPath != "" || r.RekorPublicKeyPaths != nil || r.RekorPublicKeyData != nil || r.RekorPublicKeyDatas != nil
	switch {
	case r.Fulcio != nil:
		return c.fulcio(at, r)
	case r.PKI != nil:
		return c.pki(at, *r.PKI)
	case rekor:
		return nil, fmt.Errorf("%s: a key whose signatures must be in a Rekor cannot be kept: a signer with a key is not looked up in any log; demand certificates (fulcio), or leave the Rekor out", at)
	}
	return c.keys(at, r, "cosign", "key", ".pub")
}

// keys names a signer for each key.
func (c *conversion) keys(at string, r Requirement, kind, setting, extension string) ([]string, error) {
	var names []string
	for i, data := range append(slices.Clone(r.KeyDatas), r.KeyData) {
		if data == nil {
			continue
		}
		from := fmt.Sprintf("%s.keyDatas[%d]", at, i)
		if i == len(r.KeyDatas) {
			from = at + ".keyData"
		}
		name, err := c.keySigner(signer{Name: kind, Kind: kind, Settings: setting + ": " + quoted(c.file("key", extension, data)), From: from}, data)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	for i, file := range append(slices.Clone(r.KeyPaths), r.KeyPath) {
		if file == "" {
			continue
		}
		from := fmt.Sprintf("%s.keyPaths[%d]", at, i)
		if i == len(r.KeyPaths) {
			from = at + ".keyPath"
		}
		if err := absolute(from, file); err != nil {
			return nil, err
		}
		base := path.Base(file)
		// Whether the file is there and what is in it is for those who load it.
		data, _ := readKey(from, file)
		name, err := c.keySigner(signer{Name: strings.TrimSuffix(base, path.Ext(base)), Kind: kind, Settings: setting + ": " + quoted(file), From: from}, data)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// keySigner returns the name of the signer with those keys. A signature has one signer,
// so that a key must not be two signers'.
func (c *conversion) keySigner(s signer, data []byte) (string, error) {
	s.keys = fingerprints(s.Kind, data)
	for _, other := range c.Signers {
		shared := slices.ContainsFunc(s.keys, func(key string) bool { return slices.Contains(other.keys, key) })
		switch {
		case s.Kind != other.Kind || !shared:
		case slices.Equal(s.keys, other.keys):
			return other.Name, nil
		default:
			return "", fmt.Errorf("%s: a key in it is also in that of %s, beside other keys, and a signature has one signer: split the keyrings and name both parts with keyPaths", s.From, other.From)
		}
	}
	return c.signer(s), nil
}

// fingerprints tell keys apart. Of what is no key there are none.
func fingerprints(kind string, data []byte) []string {
	var all []string
	if kind == "cosign" {
		if key, err := cryptoutils.UnmarshalPEMToPublicKey(data); err == nil {
			if der, err := x509.MarshalPKIXPublicKey(key); err == nil {
				sum := sha256.Sum256(der)
				all = append(all, hex.EncodeToString(sum[:]))
			}
		}
		return all
	}
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	if err != nil {
		ring, _ = openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	for _, entity := range ring {
		all = append(all, hex.EncodeToString(entity.PrimaryKey.Fingerprint))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// signer returns the name of the signer of that kind with those settings.
func (c *conversion) signer(s signer) string {
	for _, other := range c.Signers {
		if s.Kind == other.Kind && s.Settings == other.Settings {
			return other.Name
		}
	}
	wish := cmp.Or(strings.Trim(notInNames.ReplaceAllString(s.Name, "-"), "-"), s.Kind)
	s.Name = wish
	for n := 2; slices.ContainsFunc(c.Signers, func(o signer) bool { return o.Name == s.Name }); n++ {
		s.Name = fmt.Sprintf("%s-%d", wish, n)
	}
	c.Signers = append(c.Signers, s)
	return s.Name
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// file keeps what policy.json holds itself, and returns its path.
func (c *conversion) file(prefix, extension string, content []byte) string {
	sum := sha256.Sum256(content)
	name := "keys/" + prefix + "-" + hex.EncodeToString(sum[:6]) + extension
	c.files[name] = content
	return name
}

// fulcio puts together the trusted root that holds what policy.json names. Fulcio's
// certificates are not looked up in a certificate transparency log, as containers/image
// does not look them up.
func (c *conversion) fulcio(at string, r Requirement) ([]string, error) {
	f := r.Fulcio
	authorities, err := certificates(at+".fulcio.caPath", f.CAPath, f.CAData)
	if err != nil {
		return nil, err
	}
	var trusted []root.CertificateAuthority
	for _, ca := range authorities {
		trusted = append(trusted, &root.FulcioCertificateAuthority{Root: ca, ValidityPeriodStart: ca.NotBefore, ValidityPeriodEnd: ca.NotAfter})
	}
	logs := map[string]*root.TransparencyLog{}
	for i, data := range append(slices.Clone(r.RekorPublicKeyDatas), r.RekorPublicKeyData) {
		if data != nil {
			if err := addLog(logs, fmt.Sprintf("%s.rekorPublicKeyData(s)[%d]", at, i), data); err != nil {
				return nil, err
			}
		}
	}
	for _, file := range append(slices.Clone(r.RekorPublicKeyPaths), r.RekorPublicKeyPath) {
		if file == "" {
			continue
		}
		data, err := readKey(at+".rekorPublicKeyPath", file)
		if err != nil {
			return nil, err
		}
		if err := addLog(logs, at+".rekorPublicKeyPath", data); err != nil {
			return nil, err
		}
	}
	material, err := root.NewTrustedRoot(root.TrustedRootMediaType01, trusted, nil, nil, logs)
	if err != nil {
		return nil, fmt.Errorf("%s: putting the trusted root together: %w", at, err)
	}
	document, err := material.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("%s: writing the trusted root: %w", at, err)
	}
	settings := fmt.Sprintf("issuer_regexp: %s, subject_regexp: %s, root: %s, without_sct: true",
		quoted(regexp.QuoteMeta(f.OIDCIssuer)), quoted(regexp.QuoteMeta(f.SubjectEmail)), quoted(c.file("trusted-root", ".json", document)))
	return []string{c.signer(signer{Name: f.SubjectEmail, Kind: "keyless", Settings: settings, From: at + ".fulcio"})}, nil
}

// addLog adds the public key of a Rekor, which containers/image takes for as long as the
// policy names it.
func addLog(logs map[string]*root.TransparencyLog, at string, pem []byte) error {
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	id := sha256.Sum256(der)
	logs[hex.EncodeToString(id[:])] = &root.TransparencyLog{
		ID: id[:], HashFunc: crypto.SHA256, PublicKey: key, SignatureHashFunc: crypto.SHA256,
	}
	return nil
}

func (c *conversion) pki(at string, p PKI) ([]string, error) {
	if p.SubjectHostname != "" {
		return nil, fmt.Errorf("%s.pki.subjectHostname: a signer is named by one name in its certificate, and a host's cannot be kept; demand an e-mail address", at)
	}
	roots, err := certificates(at+".pki.caRootsPath", p.CARootsPath, p.CARootsData)
	if err != nil {
		return nil, err
	}
	for _, ca := range roots {
		if !bytes.Equal(ca.RawIssuer, ca.RawSubject) {
			return nil, fmt.Errorf("%s.pki.caRootsPath: %q is not self-signed, and such a certificate is no root here; name the root, and this one as an intermediate", at, ca.Subject)
		}
	}
	file := p.CARootsPath
	if p.CARootsPath == "" || p.CAIntermediatesPath != "" || p.CAIntermediatesData != nil {
		if p.CAIntermediatesPath != "" || p.CAIntermediatesData != nil {
			more, err := certificates(at+".pki.caIntermediatesPath", p.CAIntermediatesPath, p.CAIntermediatesData)
			if err != nil {
				return nil, err
			}
			for _, ca := range more {
				if bytes.Equal(ca.RawIssuer, ca.RawSubject) {
					return nil, fmt.Errorf("%s.pki.caIntermediatesPath: %q is self-signed and would count as a root", at, ca.Subject)
				}
			}
			roots = append(roots, more...)
		}
		pem, err := cryptoutils.MarshalCertificatesToPEM(roots)
		if err != nil {
			return nil, fmt.Errorf("%s.pki: %w", at, err)
		}
		file = c.file("ca", ".pem", pem)
	}
	settings := fmt.Sprintf("ca: %s, subject_regexp: %s", quoted(file), quoted(regexp.QuoteMeta(p.SubjectEmail)))
	return []string{c.signer(signer{Name: p.SubjectEmail, Kind: "certificate", Settings: settings, From: at + ".pki"})}, nil
}

func certificates(at, file string, data []byte) ([]*x509.Certificate, error) {
	if file != "" {
		var err error
		if data, err = readKey(at, file); err != nil {
			return nil, err
		}
	}
	list, err := cryptoutils.UnmarshalCertificatesFromPEM(data)
	if err == nil && len(list) == 0 {
		err = errors.New("there is no certificate in it")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return list, nil
}

func readKey(at, file string) ([]byte, error) {
	if err := absolute(at, file); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err == nil && len(raw) > maxKey {
		err = fmt.Errorf("%s has more than %d bytes", file, maxKey)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return raw, nil
}

func (c *conversion) write(places map[string]place) (*Converted, error) {
	var config bytes.Buffer
	if err := configuration.Execute(&config, map[string]any{"Name": c.name, "Rules": RulesFile, "C": c}); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	maps.DeleteFunc(c.files, func(name string, _ []byte) bool { return !bytes.Contains(config.Bytes(), []byte(quoted(name))) })
	table, err := json.MarshalIndent(places, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("writing the rules: %w", err)
	}
	return &Converted{Config: config.Bytes(), Rules: fmt.Appendf(slices.Clone(rules), "\nscopes := %s\n", table), Files: c.files}, nil
}

// quoted is a text in YAML. JSON is YAML.
func quoted(text string) string {
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string is always JSON
	}
	return string(raw)
}

var configuration = template.Must(template.New("configuration").Funcs(template.FuncMap{"yaml": quoted, "comment": comment}).Parse(
	`# {{comment .Name}}, which podman, skopeo, buildah and CRI-O read, as a configuration of TrustGate: what it
# demands of images in registries is demanded of every pull. Behind each line stands where it comes from.
{{- range .C.Notes}}
#
# {{comment .}}
{{- end}}

routes:
{{- range .C.Routes}}
  - registry: {{yaml .Registry}}   # {{comment .From}}
    upstream: {{yaml .Upstream}}
    mode: enforce
    # lookaside: []   # where registries.d of the clients says that OpenPGP signatures are
{{- end}}

trust:
  signers:{{if not .C.Signers}} []{{end}}
{{- range .C.Signers}}
    - {name: {{yaml .Name}}, {{.Kind}}: { {{- .Settings -}} }}   # {{comment .From}}
{{- end}}

policy:
  builtin: false        # policy.json demands nothing more; true adds the shipped rules of the collections
  collections: []
  paths: [{{yaml .Rules}}]
`))

// comment keeps a text within the comment that it is put into.
func comment(text string) string { return strings.Join(strings.Fields(text), " ") }
