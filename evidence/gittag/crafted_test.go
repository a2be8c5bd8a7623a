package gittag_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/trustgate/trustgate/evidence/gittag"
)

// sshsig is an SSH signature in its parts; the zero parts are ordinary ones.
type sshsig struct {
	version                                  uint32
	namespace, reserved, hash, signedReserve string
	format                                   string // of the inner signature
	public                                   ssh.PublicKey
	rest, after                              string
}

// armored signs text with key.
func (how sshsig) armored(t testing.TB, key ssh.Signer, text string) string {
	t.Helper()
	orDefault := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	orDefault(&how.namespace, "git")
	orDefault(&how.hash, "sha256")
	if how.version == 0 {
		how.version = 1
	}
	if how.public == nil {
		how.public = key.PublicKey()
	}
	digest := sha256.Sum256([]byte(text))
	message := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Digest                    []byte
	}{how.namespace, how.signedReserve, how.hash, digest[:]})...)
	var signature *ssh.Signature
	var err error
	if how.format != "" {
		signature, err = key.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, message, how.format)
	} else {
		signature, err = key.Sign(rand.Reader, message)
	}
	if err != nil {
		t.Fatal(err)
	}
	signature.Rest = []byte(how.rest)
	blob := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Version                   uint32
		Public                    []byte
		Namespace, Reserved, Hash string
		Signature                 []byte
	}{how.version, how.public.Marshal(), how.namespace, how.reserved, how.hash, ssh.Marshal(signature)})...)
	return armorSSH(append(blob, how.after...))
}

func armorSSH(blob []byte) string {
	return "-----BEGIN SSH SIGNATURE-----\n" + base64.StdEncoding.EncodeToString(blob) + "\n-----END SSH SIGNATURE-----\n"
}

func (w *world) sshSigner(t testing.TB, path string) ssh.Signer {
	t.Helper()
	key, err := ssh.ParsePrivateKey([]byte(w.read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestCraftedTags puts tag objects into a real repository that no git would
// make. Each is asked for by its own name at one revision.
func TestCraftedTags(t *testing.T) {
	w := theWorld(t)
	release, stranger := w.sshSigner(t, w.sshRelease), w.sshSigner(t, w.sshStranger)
	w.repository(t, "crafted", func(s *script) {
		s.run("", "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", filepath.Join(s.dir, ".git", "rsa"))
		s.run("", "ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", filepath.Join(s.dir, ".git", "ecdsa"))
		for _, commit := range []string{"crafted", "rsa", "ecdsa", "quoted"} {
			s.commit(commit)
		}
		// Short names keep the table readable.
		w.commits["crafted"] = s.git("rev-parse", "main~3")
	})
	folder := filepath.Join(w.root, "acme", "crafted")
	s := &script{w: w, dir: folder}
	rsaKey := w.sshSigner(t, filepath.Join(folder, ".git", "rsa"))
	ecdsaKey := w.sshSigner(t, filepath.Join(folder, ".git", "ecdsa"))

	text := func(name string) string { return w.tagText("crafted", name) }
	pgp := func(signed string) string {
		return s.run(signed, "gpg", "--batch", "--local-user", w.release, "-bsa") + "\n"
	}
	with := func(how sshsig) func(string) string {
		return func(name string) string { return text(name) + how.armored(t, release, text(name)) }
	}
	certificate := &ssh.Certificate{Key: release.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := certificate.SignCert(rand.Reader, stranger); err != nil {
		t.Fatal(err)
	}
	refused := map[string]struct {
		object func(name string) string
		says   string
	}{
		"for-a-file":      {with(sshsig{namespace: "file"}), `it was made for "file", not for git`},
		"version-2":       {with(sshsig{version: 2}), "an SSH signature of version 2"},
		"reserved":        {with(sshsig{reserved: "x"}), "a field that is reserved"},
		"reserved-signed": {with(sshsig{reserved: "x", signedReserve: "x"}), "a field that is reserved"},
		"over-sha1":       {with(sshsig{hash: "sha1"}), `it is over the hash "sha1"`},
		"inner-rest":      {with(sshsig{rest: "x"}), "it goes on after its end"},
		"outer-rest":      {with(sshsig{after: "x"}), "it is malformed"},
		"certificate":     {with(sshsig{public: certificate}), "which no signer in trust.signers holds"},
		"ssh-rsa":         {func(n string) string { return text(n) + sshsig{format: ssh.KeyAlgoRSA}.armored(t, rsaKey, text(n)) }, `it was made with "ssh-rsa", which is too weak`},
		"name-of-another": {func(n string) string {
			return text(n) + sshsig{public: release.PublicKey()}.armored(t, stranger, text(n))
		}, "one of them was changed"},
		"wrong-algorithm": {func(n string) string {
			return text(n) + sshsig{public: release.PublicKey()}.armored(t, ecdsaKey, text(n))
		}, "does not fit the key"},
		"changed":        {func(n string) string { return text(n) + sshsig{}.armored(t, release, text(n)+" ") }, "one of them was changed"},
		"changed-pgp":    {func(n string) string { return text(n) + pgp(text(n)+"\n") }, "one of them was changed"},
		"text-after":     {func(n string) string { return with(sshsig{})(n) + "Reviewed-by: nobody\n" }, "no end, or text follows it"},
		"text-after-pgp": {func(n string) string { return text(n) + pgp(text(n)) + "Reviewed-by: nobody\n" }, "text follows the end of its armor"},
		"no-end":         {func(n string) string { return strings.Split(with(sshsig{})(n), "\n-----END")[0] }, "no end, or text follows it"},
		"no-base64": {func(n string) string {
			return text(n) + "-----BEGIN SSH SIGNATURE-----\n*\n-----END SSH SIGNATURE-----\n"
		}, "its armor is damaged"},
		"no-newline": {func(n string) string {
			return text(n) + "-----BEGIN SSH SIGNATURE-----x\nAAAA\n-----END SSH SIGNATURE-----\n"
		}, "its armor is damaged"},
		"no-sshsig":    {func(n string) string { return text(n) + armorSSH([]byte("SSHKEY")) }, "it is not an SSH signature"},
		"empty-sshsig": {func(n string) string { return text(n) + armorSSH([]byte("SSHSIG")) }, "it is malformed"},
		"endless":      {func(n string) string { return text(n) + armorSSH(make([]byte, 64<<10)) }, "more than the 32768"},
		"pgp-message": {func(n string) string {
			return text(n) + "-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n"
		}, "an OpenPGP message where a detached signature belongs"},
		"two-kinds":         {func(n string) string { return with(sshsig{})(n) + pgp(text(n)) }, "one of them was changed"},
		"extra-header":      {func(n string) string { return strings.Replace(with(sshsig{})(n), "\n\n", "\ngpgsig-sha256 x\n\n", 1) }, "its header has lines that TrustGate does not know"},
		"two-names":         {func(n string) string { return strings.Replace(with(sshsig{})(n), "\ntagger", "\ntag other\ntagger", 1) }, `no proper line "tagger"`},
		"signature-in-head": {func(n string) string { return strings.Replace(with(sshsig{})(n), "\n\nThe release "+n+"\n", "\n", 1) }, "its header has lines that TrustGate does not know"},
		"no-tagger": {func(n string) string {
			head, _, _ := strings.Cut(text(n), "tagger ")
			return head + "\nThe release\n" + pgp(head+"\nThe release\n")
		}, `no proper line "tagger"`},
		"no-message": {func(n string) string { return strings.Split(text(n), "\n\n")[0] + "\n" }, "it is not signed"},
		"too-long":   {func(n string) string { return text(n) + strings.Repeat("x", 2<<20) }, "larger than 1048576 bytes"},
	}
	objects := map[string]string{}
	for name, tc := range refused {
		objects[name] = tc.object(name)
	}
	for commit, key := range map[string]string{"rsa": "rsa", "ecdsa": "ecdsa"} {
		s.git(append(w.withSSH(filepath.Join(folder, ".git", key)), "tag", "--sign", "--message", "x", key, w.commits[commit])...)
	}
	// A message may quote a signature; the last one is the tag's.
	quoted := w.tagText("quoted", "quoted") + "As in:\n" + pgp("hello") + "\n"
	objects["quoted"] = quoted + pgp(quoted)
	s.graft("tag", "refs/tags/", objects)
	if s.err != nil {
		t.Fatal(s.err)
	}

	server := httptest.NewServer(replay(w.backend(t)))
	defer server.Close()
	o := w.options()
	signer, err := gittag.LoadSSHSigner("more", []byte(w.read(t, filepath.Join(folder, ".git", "rsa.pub"))+w.read(t, filepath.Join(folder, ".git", "ecdsa.pub"))))
	if err != nil {
		t.Fatal(err)
	}
	o.SSH = append(o.SSH, signer)
	v := verifier(t, o)
	for name, tc := range refused {
		t.Run(name, func(t *testing.T) {
			found, err := v.Find(t.Context(), server.URL+"/acme/crafted", w.commits["crafted"], name)
			if err != nil || found.Tag.Name != name || found.Tag.By.Verified() || !strings.Contains(found.Tag.Err, tc.says) {
				t.Errorf("got %+v, %v, want it to say %q", found.Tag, err, tc.says)
			}
		})
	}
	// The real git agrees about the strangest of the good ones.
	s.git("verify-tag", "quoted")
	if s.err != nil {
		t.Error(s.err)
	}
	for _, name := range []string{"rsa", "ecdsa", "quoted"} {
		t.Run(name, func(t *testing.T) {
			found, err := v.Find(t.Context(), server.URL+"/acme/crafted", w.commits[name], "")
			if err != nil || !found.Tag.By.Verified() || found.Tag.Name != name || found.Tag.SignedAt.IsZero() {
				t.Errorf("got %+v, %v", found.Tag, err)
			}
		})
	}
}

// TestCraftedCommits puts commits at branches that no git would make.
func TestCraftedCommits(t *testing.T) {
	w := theWorld(t)
	w.repository(t, "commits", func(s *script) { s.commit("crafted commit") })
	s := &script{w: w, dir: filepath.Join(w.root, "acme", "commits")}
	head, message, _ := strings.Cut(s.run("", "git", "cat-file", "commit", "HEAD")+"\n", "\n\n")
	text := head + "\n\n" + message
	armor := sshsig{}.armored(t, w.sshSigner(t, w.sshRelease), text)
	header := func(key string) string {
		return "\n" + key + " " + strings.ReplaceAll(strings.TrimSuffix(armor, "\n"), "\n", "\n ")
	}
	cases := map[string]struct{ object, says string }{
		"good":              {head + header("gpgsig") + "\n\n" + message, ""},
		"before-the-author": {strings.Replace(text, "\nauthor", header("gpgsig")+"\nauthor", 1), ""},
		"changed":           {head + header("gpgsig") + "\n\n" + message + "x", "one of them was changed"},
		"another-header":    {head + "\nreviewer nobody" + header("gpgsig") + "\n\n" + message, "one of them was changed"},
		"twice":             {head + header("gpgsig") + header("gpgsig") + "\n\n" + message, "it carries two signatures"},
		"sha256":            {head + header("gpgsig-sha256") + "\n\n" + message, "SHA-256 object names"},
		"both":              {head + header("gpgsig") + header("gpgsig-sha256") + "\n\n" + message, "SHA-256 object names"},
		"in-a-mergetag":     {head + header("mergetag") + "\n\n" + message, "it is not signed"},
		"in-the-message":    {text + armor, "it is not signed"},
		"a-word":            {head + "\nword\n\n" + message, "not that of a commit"},
		"empty-signature":   {head + "\ngpgsig \n\n" + message, "of no kind that git makes"},
		"too-long":          {text + strings.Repeat("x", 2<<20), "larger than 1048576 bytes"},
	}
	objects := map[string]string{}
	for name, tc := range cases {
		objects[name] = tc.object
	}
	ids := s.graft("commit", "refs/heads/", objects)
	// The real git agrees about the good ones.
	s.git("-c", "gpg.ssh.allowedSignersFile="+filepath.Join(w.dir, "allowed_signers"), "verify-commit", "good", "before-the-author")
	if s.err != nil {
		t.Fatal(s.err)
	}
	server := httptest.NewServer(replay(w.backend(t)))
	defer server.Close()
	v := verifier(t, w.options())
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			found, err := v.Find(t.Context(), server.URL+"/acme/commits", ids[name], "")
			if err != nil || found.Commit.By.Verified() != (tc.says == "") || !strings.Contains(found.Commit.Err, tc.says) {
				t.Errorf("got %+v, %v, want it to say %q", found.Commit, err, tc.says)
			}
		})
	}
}
