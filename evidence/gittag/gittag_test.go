package gittag_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/gittag"
)

func TestFind(t *testing.T) {
	w := theWorld(t)
	server := httptest.NewServer(replay(w.backend(t)))
	defer server.Close()
	v := verifier(t, w.options())
	release := evidence.Signer{Name: "release", Fingerprint: w.release}
	releaseSSH := evidence.Signer{Name: "release-ssh", Fingerprint: w.ssh.Fingerprints()[0]}

	const unsignedCommit = "it is not signed; commit with 'git commit --gpg-sign'"
	for name, tc := range map[string]struct {
		commit, ref string
		tag         string
		by          evidence.Signer
		says        string // of the tag, when it is not verified
		commitBy    evidence.Signer
		commitSays  string
	}{
		"a tag signed with OpenPGP":                     {commit: "openpgp", tag: "v1.0", by: release, commitSays: unsignedCommit},
		"the same by its full ref":                      {commit: "openpgp", ref: "refs/tags/v1.0", tag: "v1.0", by: release, commitSays: unsignedCommit},
		"built from a branch":                           {commit: "openpgp", ref: "refs/heads/main", tag: "v1.0", by: release, commitSays: unsignedCommit},
		"built from what can be no ref":                 {commit: "openpgp", ref: "-v1.0\x00..", tag: "v1.0", by: release, commitSays: unsignedCommit},
		"a tag signed with SSH":                         {commit: "ssh", tag: "v2.0", by: releaseSSH, commitSays: unsignedCommit},
		"an annotated tag that is not signed":           {commit: "unsigned", tag: "v3.0", says: "it is not signed; make one with 'git tag --sign'", commitSays: unsignedCommit},
		"a lightweight tag":                             {commit: "lightweight", tag: "v4.0", says: "it is a lightweight tag, a bare name that cannot be signed", commitSays: unsignedCommit},
		"a tag by a stranger":                           {commit: "stranger", tag: "v5.0", says: "made with the key " + w.stranger + ", which no signer in trust.signers holds", commitSays: unsignedCommit},
		"a tag by a stranger with SSH":                  {commit: "ssh stranger", tag: "v5.1", says: "which no signer in trust.signers holds", commitSays: unsignedCommit},
		"a tag object put under another name":           {commit: "renamed", tag: "v6.0", says: `its tag object was made for the tag "v6.0-rc1" and put under this name`, commitSays: unsignedCommit},
		"a tag of a tag":                                {commit: "nested", tag: "v8.0", says: "it points at another tag", commitSays: unsignedCommit},
		"a tag signed with X.509":                       {commit: "x509", tag: "v11.0", says: "an X.509 certificate, as gitsign and S/MIME do, which TrustGate does not verify", commitSays: unsignedCommit},
		"several tags, a signed one is found":           {commit: "several", tag: "lib/v9.3", by: releaseSSH, commitSays: unsignedCommit},
		"several tags, the one asked for":               {commit: "several", ref: "v9.2", tag: "v9.2", by: release, commitSays: unsignedCommit},
		"several tags, the one asked for is not signed": {commit: "several", ref: "v9.0", tag: "lib/v9.3", by: releaseSSH, commitSays: unsignedCommit},
		"several tags, none signed":                     {commit: "several, none signed", tag: "v10.0", says: "it is not signed", commitSays: unsignedCommit},
		"several, none signed, lightweight asked for":   {commit: "several, none signed", ref: "v10.1", tag: "v10.1", says: "it is a lightweight tag", commitSays: unsignedCommit},
		"the tag asked for points elsewhere":            {commit: "unsigned", ref: "v1.0", tag: "v1.0", says: "it points at " + w.commits["openpgp"] + " now, not at the revision", commitSays: unsignedCommit},
		"a lightweight tag points elsewhere":            {commit: "unsigned", ref: "v4.0", tag: "v4.0", says: "it points at " + w.commits["lightweight"], commitSays: unsignedCommit},
		"another one points elsewhere":                  {commit: "openpgp", ref: "v2.0", tag: "v1.0", by: release, commitSays: unsignedCommit},
		"the tag and the commit are signed":             {commit: "signed twice", tag: "v12.0", by: release, commitBy: releaseSSH},
		"a signed commit without a tag":                 {commit: "branch, signed", says: "no tag points at the revision", commitBy: releaseSSH},
		"a commit signed by a stranger":                 {commit: "branch, stranger", says: "no tag points at the revision", commitSays: "made with the key " + w.stranger},
		"a commit that no ref is at":                    {commit: "inner, signed", says: "no tag points at the revision", commitSays: "its server hands out no other commits"},
		"a tag that was never there":                    {commit: "tip", ref: "refs/tags/v99", says: "no tag points at the revision", commitSays: unsignedCommit},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := v.Find(t.Context(), server.URL+"/acme/app.git", w.commits[tc.commit], tc.ref)
			if err != nil {
				t.Fatal(err)
			}
			if found.Revision != w.commits[tc.commit] || found.Tag.Name != tc.tag || found.Tag.By.Signer() != tc.by || found.Commit.By.Signer() != tc.commitBy {
				t.Errorf("got %+v", found)
			}
			for what, said := range map[string]struct {
				by         evidence.Voucher
				says, want string
			}{"tag": {found.Tag.By, found.Tag.Err, tc.says}, "commit": {found.Commit.By, found.Commit.Err, tc.commitSays}} {
				if said.by.Verified() != (said.want == "") || said.by.Verified() != (said.says == "") || !strings.Contains(said.says, said.want) {
					t.Errorf("the %s: verified %v, says %q, want it to say %q", what, said.by.Verified(), said.says, said.want)
				}
			}
			if hasTime := !found.Tag.SignedAt.IsZero(); hasTime != (tc.by != evidence.Signer{}) && tc.by != (evidence.Signer{}) {
				t.Errorf("signed at %s", found.Tag.SignedAt)
			}
			if at := found.Tag.SignedAt; !at.IsZero() && time.Since(at).Abs() > time.Hour {
				t.Errorf("signed at %s", at)
			}
		})
	}
}

func TestFindWhatNobodyCanVerify(t *testing.T) {
	w := theWorld(t)
	v := verifier(t, w.options())
	for name, tc := range map[string]struct{ revision, says string }{
		"an abbreviated name": {w.commits["openpgp"][:12], "not the full name of a commit"},
		"a branch":            {"main", "not the full name of a commit"},
		"nothing":             {"", "not the full name of a commit"},
		"a SHA-256 name":      {strings.Repeat("a", 64), "SHA-256 object names"},
	} {
		t.Run(name, func(t *testing.T) {
			// Nobody is asked: there is nobody at that address.
			found, err := v.Find(t.Context(), "https://127.0.0.1:1/acme/app", tc.revision, "")
			if err != nil || found.Tag.By.Verified() || found.Commit.By.Verified() ||
				!strings.Contains(found.Tag.Err, tc.says) || !strings.Contains(found.Commit.Err, tc.says) {
				t.Errorf("got %+v, %v", found, err)
			}
		})
	}
}

// TestFindOver asks over each transport, of servers that can leave out what is
// not needed and of servers that cannot.
func TestFindOver(t *testing.T) {
	w := theWorld(t)
	w.repository(t, "filter", func(s *script) {
		s.git("config", "uploadpack.allowFilter", "true")
		s.git("config", "uploadpack.allowReachableSHA1InWant", "true")
		s.git("fetch", "--quiet", "--tags", "../app", "main:main", "--update-head-ok")
	})
	plain := httptest.NewServer(w.backend(t))
	defer plain.Close()
	secure := httptest.NewTLSServer(w.backend(t))
	defer secure.Close()
	o := w.options()
	o.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	for name, base := range map[string]string{"HTTP": plain.URL, "HTTPS": secure.URL, "git": "git://" + w.daemon(t)} {
		for _, repository := range []string{"app", "filter"} {
			t.Run(name+", "+repository, func(t *testing.T) {
				v := verifier(t, o)
				find := func(commit string) gittag.Result {
					t.Helper()
					found, err := v.Find(t.Context(), base+"/acme/"+repository, w.commits[commit], "")
					if err != nil {
						t.Fatal(err)
					}
					return found
				}
				if found := find("signed twice"); found.Tag.By.Signer().Name != "release" || found.Commit.By.Signer().Name != "release-ssh" {
					t.Errorf("signed twice: %+v", found)
				}
				if found := find("inner, signed"); found.Commit.By.Verified() != (repository == "filter") {
					t.Errorf("no ref is at it: %+v", found)
				}
			})
		}
	}
	t.Run("a commit that is not there", func(t *testing.T) {
		found, err := verifier(t, o).Find(t.Context(), plain.URL+"/acme/filter", strings.Repeat("ab", 20), "")
		if err != nil || found.Commit.Err != "the repository has no such commit" || !strings.Contains(found.Tag.Err, "no tag points at") {
			t.Errorf("got %+v, %v", found, err)
		}
	})
	t.Run("a CA that is not there", func(t *testing.T) {
		o := o
		o.CA = nil
		_, err := verifier(t, o).Find(t.Context(), secure.URL+"/acme/app", w.commits["openpgp"], "")
		if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("got %v", err)
		}
	})
}

// TestAsksForNoMoreThanNeeded reads what the server is asked for.
func TestAsksForNoMoreThanNeeded(t *testing.T) {
	w := theWorld(t)
	w.repository(t, "sparing", func(s *script) {
		s.git("config", "uploadpack.allowFilter", "true")
		s.git("fetch", "--quiet", "--tags", "../app", "main:main", "--update-head-ok")
	})
	backend := w.backend(t)
	var request string
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		request = string(body)
		r.Body = io.NopCloser(strings.NewReader(request))
		backend.ServeHTTP(rw, r)
	}))
	defer server.Close()
	for repository, filters := range map[string]bool{"app": false, "sparing": true} {
		if _, err := verifier(t, w.options()).Find(t.Context(), server.URL+"/acme/"+repository, w.commits["openpgp"], ""); err != nil {
			t.Fatal(err)
		}
		if strings.Count(request, "want ") != 1 || !strings.Contains(request, "deepen 1\n") || strings.Contains(request, "filter tree:0\n") != filters {
			t.Errorf("%s was asked for %q", repository, request)
		}
	}
}

func TestEmptyRepository(t *testing.T) {
	w := theWorld(t)
	w.repository(t, "empty", func(*script) {})
	server := httptest.NewServer(w.backend(t))
	defer server.Close()
	for _, base := range []string{server.URL, "git://" + w.daemon(t)} {
		found, err := verifier(t, w.options()).Find(t.Context(), base+"/acme/empty", w.commits["openpgp"], "")
		if err != nil || found.Tag.Err != "the repository is empty" || found.Commit.Err != "the repository is empty" {
			t.Errorf("%s: got %+v, %v", base, found, err)
		}
	}
}

// TestKeysAsTheyStandNow asks again when a key has expired: what it signed
// stops counting.
func TestKeysAsTheyStandNow(t *testing.T) {
	w := theWorld(t)
	server := httptest.NewServer(replay(w.backend(t)))
	defer server.Close()
	o := w.options()
	if found, err := verifier(t, o).Find(t.Context(), server.URL+"/acme/app", w.commits["brief"], ""); err != nil || !found.Tag.By.Verified() {
		t.Fatalf("while the key lives: %+v, %v", found, err)
	}
	o.Now = func() time.Time { return time.Now().Add(72 * time.Hour) }
	found, err := verifier(t, o).Find(t.Context(), server.URL+"/acme/app", w.commits["brief"], "")
	if err != nil || found.Tag.By.Verified() || !strings.Contains(found.Tag.Err, "the key expired on") {
		t.Errorf("after it expired: %+v, %v", found, err)
	}
}

func TestRepositoriesThatAreNotAsked(t *testing.T) {
	w := theWorld(t)
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		repository        string
		hosts             []string
		insecure, private bool
		says              string
		notListed         bool
	}{
		"no host is listed":                   {repository: server.URL + "/acme/app", insecure: true, private: true, notListed: true},
		"another host is listed":              {repository: server.URL + "/acme/app", hosts: []string{"github.com"}, insecure: true, private: true, notListed: true},
		"another repository is listed":        {repository: server.URL + "/acme/app", hosts: []string{server.URL + "/acme/lib"}, insecure: true, private: true, notListed: true},
		"https is listed, not http":           {repository: server.URL + "/acme/app", hosts: []string{"127.0.0.1:*"}, insecure: true, private: true, notListed: true},
		"http without leave":                  {repository: server.URL + "/acme/app", hosts: []string{"http://**"}, private: true, says: "is not https"},
		"git without leave":                   {repository: "git://127.0.0.1:" + port + "/acme/app", hosts: []string{"git://127.0.0.1:*"}, private: true, says: "is not https"},
		"an address of this machine":          {repository: server.URL + "/acme/app", hosts: []string{server.URL}, insecure: true, says: "127.0.0.1, an address of this machine"},
		"the same over git":                   {repository: "git://127.0.0.1:" + port + "/acme/app", hosts: []string{"git://127.0.0.1:*"}, insecure: true, says: "127.0.0.1, an address of this machine"},
		"a name of this machine":              {repository: "http://localhost:" + port + "/acme/app", hosts: []string{"http://localhost:*"}, insecure: true, says: ", an address of this machine"},
		"a name of this machine over git":     {repository: "git://localhost:" + port + "/acme/app", hosts: []string{"git://localhost:*"}, insecure: true, says: ", an address of this machine"},
		"another spelling of this machine":    {repository: "http://[::ffff:127.0.0.1]:" + port + "/acme/app", hosts: []string{"http://**"}, insecure: true, says: "an address of this machine"},
		"a private network":                   {repository: "https://10.1.2.3/acme/app", hosts: []string{"https://10.1.2.3"}, says: "an address in a private network"},
		"a private network, translated":       {repository: "https://[64:ff9b::a01:203]/acme/app", hosts: []string{"**"}, says: "an address in a private network"},
		"a metadata service":                  {repository: "http://169.254.169.254/latest/app", hosts: []string{"http://**"}, insecure: true, private: true, says: "TrustGate never asks there"},
		"a metadata service over git":         {repository: "git://169.254.169.254/latest/app", hosts: []string{"git://**"}, insecure: true, private: true, says: "TrustGate never asks there"},
		"over SSH":                            {repository: "ssh://alice@127.0.0.1/acme/app", hosts: []string{"ssh://**"}, insecure: true, private: true, says: "with a login that TrustGate does not have"},
		"a folder":                            {repository: w.root + "/acme/app", hosts: []string{"**"}, insecure: true, private: true, says: "not the URL of a git repository"},
		"a folder as a URL":                   {repository: "file://" + w.root + "/acme/app", hosts: []string{"**"}, insecure: true, private: true, says: "not the URL of a git repository"},
		"a helper program":                    {repository: "ext::sh -c id", hosts: []string{"**"}, insecure: true, private: true, says: "not the URL of a git repository"},
		"a listed host as another one's user": {repository: "https://github.com@127.0.0.1:" + port + "/acme/app", hosts: []string{"github.com"}, private: true, notListed: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := verifier(t, gittag.Options{Hosts: tc.hosts, Insecure: tc.insecure, Private: tc.private})
			found, err := v.Find(t.Context(), tc.repository, w.commits["openpgp"], "")
			if err == nil || found.Tag.By.Verified() || evidence.Temporary(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %+v, %v, want an error for good that says %q", found, err, tc.says)
			}
			if errors.Is(err, gittag.ErrNotListed) != tc.notListed {
				t.Errorf("got %v", err)
			}
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

// TestProxy asks through the environment's proxy, which may be on this machine
// when the repository may not.
func TestProxy(t *testing.T) {
	w := theWorld(t)
	backend := w.backend(t)
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Host != "git.example" {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		backend.ServeHTTP(rw, r)
	}))
	defer proxy.Close()
	for _, variable := range []string{"HTTP_PROXY", "http_proxy"} {
		t.Setenv(variable, proxy.URL)
	}
	for _, variable := range []string{"NO_PROXY", "no_proxy", "REQUEST_METHOD"} {
		t.Setenv(variable, "")
	}
	o := w.options()
	o.Hosts, o.Private = []string{"http://**"}, false
	v := verifier(t, o)
	found, err := v.Find(t.Context(), "http://git.example/acme/app", w.commits["openpgp"], "")
	if err != nil || !found.Tag.By.Verified() || asked.Load() != 2 {
		t.Errorf("got %+v, %v, and the proxy was asked %d times", found, err, asked.Load())
	}
	_, err = v.Find(t.Context(), "http://10.1.2.3/acme/app", w.commits["openpgp"], "")
	if err == nil || !strings.Contains(err.Error(), "an address in a private network") || asked.Load() != 2 {
		t.Errorf("a private address through the proxy: %v, and the proxy was asked %d times", err, asked.Load())
	}
}

// TestManyTags puts more tags at one revision than are looked at.
func TestManyTags(t *testing.T) {
	w := theWorld(t)
	w.repository(t, "many", func(s *script) {
		s.commit("many")
		objects := map[string]string{}
		for i := range 70 {
			name := fmt.Sprintf("v%03d", i)
			objects[name] = w.tagText("many", name)
		}
		s.graft("tag", "refs/tags/", objects)
		s.tag("z", w.withKey(w.release)...)
	})
	server := httptest.NewServer(w.backend(t))
	defer server.Close()
	v := verifier(t, w.options())
	found, err := v.Find(t.Context(), server.URL+"/acme/many", w.commits["many"], "")
	if err != nil || found.Tag.By.Verified() || found.Tag.Name != "v000" || !strings.Contains(found.Tag.Err, "(7 more tags point at the revision, and were not looked at)") {
		t.Errorf("got %+v, %v", found.Tag, err)
	}
	found, err = v.Find(t.Context(), server.URL+"/acme/many", w.commits["many"], "z")
	if err != nil || !found.Tag.By.Verified() || found.Tag.Name != "z" {
		t.Errorf("the last one by its name: %+v, %v", found.Tag, err)
	}
}

func TestRedirects(t *testing.T) {
	w := theWorld(t)
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	backend := w.backend(t)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		query := "?" + r.URL.RawQuery
		switch {
		case strings.HasPrefix(r.URL.Path, "/acme/old/"):
			http.Redirect(rw, r, strings.Replace(r.URL.Path, "/old/", "/app/", 1)+query, http.StatusMovedPermanently)
		case strings.HasPrefix(r.URL.Path, "/acme/away/"):
			http.Redirect(rw, r, other.URL+r.URL.Path+query, http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/acme/sold/"):
			http.Redirect(rw, r, strings.Replace(r.URL.Path, "/acme/sold/", "/mallory/app/", 1)+query, http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/acme/trick/"):
			http.Redirect(rw, r, "/acme/app@/x/y/info/refs"+query, http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/acme/dots/"):
			rw.Header().Set("Location", "/acme/app/%2e%2e/%2e%2e/mallory/app/info/refs"+query)
			rw.WriteHeader(http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/acme/login/"):
			http.Redirect(rw, r, "/acme/session/new", http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/acme/circle/"):
			http.Redirect(rw, r, r.URL.Path+query, http.StatusFound)
		default:
			backend.ServeHTTP(rw, r)
		}
	}))
	defer server.Close()
	for name, tc := range map[string]struct{ repository, says string }{
		"a repository that was renamed":   {repository: "old"},
		"another host":                    {"away", "it redirects to another host"},
		"a repository that is not listed": {"sold", "it redirects to another repository: " + server.URL + "/mallory/app is not among"},
		"a ref behind a repository":       {"trick", "is not the plain URL of a repository"},
		"dots":                            {"dots", "it redirects to another repository"},
		"a login page":                    {"login", "which is no git repository"},
		"a circle":                        {"circle", "too many redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := verifier(t, w.options()).Find(t.Context(), server.URL+"/acme/"+tc.repository, w.commits["openpgp"], "")
			if tc.says == "" {
				if err != nil || !found.Tag.By.Verified() {
					t.Errorf("got %+v, %v", found, err)
				}
				return
			}
			if err == nil || evidence.Temporary(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %+v, %v, want an error for good that says %q", found, err, tc.says)
			}
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the other host was asked %d times", n)
	}
}

// noise is text that does not compress well.
func noise(n int) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	source := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, n)
	for i := range text {
		text[i] = letters[source.IntN(len(letters))]
	}
	return string(text)
}

// TestServersThatLie changes what the real server says about a signed tag. Only
// the signed object counts.
func TestServersThatLie(t *testing.T) {
	w := theWorld(t)
	backend := w.backend(t)
	s := &script{w: w, dir: w.root + "/acme/app"}
	first, second := s.git("rev-parse", "refs/tags/v1.0"), s.git("rev-parse", "refs/tags/v2.0")
	if s.err != nil {
		t.Fatal(s.err)
	}
	target, other := w.commits["openpgp"], w.commits["lightweight"]
	for name, tc := range map[string]struct {
		refs          []string // replacements in the list of refs, of the same length
		wants         []string // and in what is asked for
		revision, ref string
		says          string
	}{
		"nothing":                  {revision: target, ref: "v1.0"},
		"where the tag points":     {refs: []string{target + " refs/tags/v1.0^{}", other + " refs/tags/v1.0^{}"}, revision: other, ref: "v1.0", says: "its tag object points at the commit " + target + ", not at the revision"},
		"what the tag is called":   {refs: []string{"refs/tags/v1.0", "refs/tags/v9.9"}, revision: target, ref: "v9.9", says: `its tag object was made for the tag "v1.0"`},
		"which object the tag is":  {refs: []string{first + " refs/tags/v1.0", second + " refs/tags/v1.0"}, revision: target, ref: "v1.0", says: `its tag object was made for the tag "v2.0"`},
		"by handing out another":   {wants: []string{first, second}, revision: target, ref: "v1.0", says: "the repository did not hand out the tag object"},
		"that the tag is a commit": {refs: []string{first + " refs/tags/v1.0", target + " refs/tags/v1.0"}, revision: target, ref: "v1.0", says: "the repository did not hand out the tag object"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					r.Body = io.NopCloser(strings.NewReader(strings.NewReplacer(tc.wants...).Replace(string(body))))
					backend.ServeHTTP(rw, r)
					return
				}
				answer := httptest.NewRecorder()
				backend.ServeHTTP(answer, r)
				io.WriteString(rw, strings.NewReplacer(tc.refs...).Replace(answer.Body.String()))
			}))
			defer server.Close()
			found, err := verifier(t, w.options()).Find(t.Context(), server.URL+"/acme/app", tc.revision, tc.ref)
			if err != nil || found.Tag.By.Verified() != (tc.says == "") || found.Tag.Name != tc.ref || !strings.Contains(found.Tag.Err, tc.says) {
				t.Errorf("got %+v, %v, want it to say %q", found, err, tc.says)
			}
		})
	}
}

func TestMaxBytes(t *testing.T) {
	w := theWorld(t)
	server := httptest.NewServer(w.backend(t))
	defer server.Close()
	w.repository(t, "large", func(s *script) {
		s.run(noise(3<<20), "sh", "-c", "cat >noise && git add noise")
		s.commit("large")
		s.tag("v1.0", w.withKey(w.release)...)
		s.git("commit", "--quiet", "--allow-empty", "--message", "wordy")
		w.commits["wordy"] = s.git("rev-parse", "HEAD")
		s.run(noise(256<<10), "git", append(w.withKey(w.release), "tag", "--sign", "--file", "-", "v2.0")...)
	})
	find := func(commit string, limit int64) (gittag.Result, error) {
		o := w.options()
		o.MaxBytes = limit
		return verifier(t, o).Find(t.Context(), server.URL+"/acme/large", w.commits[commit], "")
	}
	t.Run("a large tree is not read", func(t *testing.T) {
		if found, err := find("large", 512<<10); err != nil || !found.Tag.By.Verified() {
			t.Errorf("got %+v, %v", found, err)
		}
	})
	for name, limit := range map[string]int64{"the list of refs is too long": 200, "the tag is too long": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			found, err := find("wordy", limit)
			if err == nil || evidence.Temporary(err) || !strings.Contains(err.Error(), "it sends more than") {
				t.Errorf("got %+v, %v", found, err)
			}
		})
	}
	t.Run("within the bound", func(t *testing.T) {
		if found, err := find("wordy", 1<<20); err != nil || !found.Tag.By.Verified() {
			t.Errorf("got %+v, %v", found, err)
		}
	})
}

func TestServersThatFail(t *testing.T) {
	w := theWorld(t)
	const refs = "application/x-git-upload-pack-advertisement"
	hang := func(rw http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tc := range map[string]struct {
		serve     http.HandlerFunc
		timeout   time.Duration
		temporary bool
		says      string
	}{
		"one that never answers": {serve: hang, timeout: 50 * time.Millisecond, temporary: true, says: "no answer within 50ms"},
		"one that stops in the middle": {serve: func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", refs)
			fmt.Fprint(rw, "001e# service=git-upload-pack\n0000")
			rw.(http.Flusher).Flush()
			hang(rw, r)
		}, timeout: 50 * time.Millisecond, temporary: true, says: "no answer within 50ms"},
		"one whose connection breaks": {serve: func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "1000")
			fmt.Fprint(rw, "001e# service=git-upload-pack\n0000")
			rw.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, temporary: true, says: "unexpected EOF"},
		"503": {serve: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(503) }, temporary: true, says: "it answers 503 Service Unavailable; try again later"},
		"429": {serve: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(429) }, temporary: true, says: "it answers 429"},
		"418": {serve: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(418) }, says: "it answers 418"},
		"404": {serve: http.NotFound, says: "there is no such repository"},
		"401": {serve: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(401) }, says: "it asks for a login"},
		"403": {serve: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(403) }, says: "it asks for a login"},
		"a page for people": {serve: func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(rw, "<html><body>\x1b[31mhello</body></html>")
		}, says: "it does not speak git's smart protocol"},
		"an empty page": {serve: func(http.ResponseWriter, *http.Request) {}, says: "it does not speak git's smart protocol"},
		"an error in the protocol": {serve: func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(rw, "001e# service=git-upload-pack\n00000014ERR go\x1b[31m away")
		}, says: `it says "go [31m away"`},
		"an endless list of refs": {serve: func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "001e# service=git-upload-pack\n0000%04x%s HEAD\x00filter\n", 4+40+5+1+7, strings.Repeat("a", 40))
			for i := 0; r.Context().Err() == nil; i++ {
				fmt.Fprintf(rw, "0047%040x refs/tags/%015d\n", i, i)
			}
		}, says: "it sends more than 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tc.serve)
			defer server.Close()
			o := w.options()
			if o.MaxBytes = 64 << 10; tc.timeout != 0 {
				o.Timeout = tc.timeout
			}
			found, err := verifier(t, o).Find(t.Context(), server.URL+"/acme/app", w.commits["openpgp"], "")
			if err == nil || evidence.Temporary(err) != tc.temporary || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %+v, %v (temporary %v), want it to say %q", found, err, err != nil && evidence.Temporary(err), tc.says)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("%q is not plain text", err)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		server := httptest.NewServer(nil)
		server.Close()
		_, err := verifier(t, w.options()).Find(t.Context(), server.URL+"/acme/app", w.commits["openpgp"], "")
		if err == nil || !evidence.Temporary(err) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a repository that is not there, over git", func(t *testing.T) {
		_, err := verifier(t, w.options()).Find(t.Context(), "git://"+w.daemon(t)+"/acme/nothing", w.commits["openpgp"], "")
		if err == nil || evidence.Temporary(err) || !strings.Contains(err.Error(), "access denied or repository not exported") {
			t.Errorf("got %v", err)
		}
	})
}

// TestRemembers counts what the server is asked while the clock goes on.
func TestRemembers(t *testing.T) {
	w := theWorld(t)
	backend := w.backend(t)
	var asked atomic.Int32
	var down atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if down.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodGet {
			asked.Add(1)
		}
		backend.ServeHTTP(rw, r)
	}))
	defer server.Close()
	clock := soon()
	o := w.options()
	o.Now = func() time.Time { return clock }
	v := verifier(t, o)
	var total int32
	find := func(what, repository, commit, ref string, requests int32) {
		t.Helper()
		if _, err := v.Find(t.Context(), server.URL+repository, w.commits[commit], ref); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if total += requests; asked.Load() != total {
			t.Errorf("%s: the server was asked %d times so far, want %d", what, asked.Load(), total)
		}
	}
	find("a verified tag", "/acme/app", "openpgp", "", 1)
	find("again", "/acme/app", "openpgp", "", 0)
	find("by another spelling of the URL", "/acme/app.git/", "openpgp", "", 0)
	find("another revision", "/acme/app", "ssh", "", 1)
	find("another ref", "/acme/app", "openpgp", "v2.0", 1)
	find("a lightweight tag", "/acme/app", "lightweight", "", 1)
	find("a lightweight tag again", "/acme/app", "lightweight", "", 0)

	clock = clock.Add(2 * time.Minute)
	find("the verified tag after minutes", "/acme/app", "openpgp", "", 0)
	find("the lightweight tag after minutes", "/acme/app", "lightweight", "", 1)

	down.Store(true)
	find("the verified tag while the server is down", "/acme/app", "openpgp", "", 0)
	if _, err := v.Find(t.Context(), server.URL+"/acme/app", w.commits["unsigned"], ""); err == nil || !evidence.Temporary(err) {
		t.Errorf("another tag while the server is down: %v", err)
	}
	down.Store(false)
	find("the same when it is back", "/acme/app", "unsigned", "", 1)

	clock = clock.Add(2 * time.Hour)
	find("the verified tag after hours", "/acme/app", "openpgp", "", 1)
}

// TestOneLookUpForAll lets many ask at once, of whom the first gives up.
func TestOneLookUpForAll(t *testing.T) {
	w := theWorld(t)
	backend := w.backend(t)
	var asked atomic.Int32
	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			if asked.Add(1) == 1 {
				close(arrived)
			}
			<-release
		}
		backend.ServeHTTP(rw, r)
	}))
	defer server.Close()
	v := verifier(t, w.options())
	find := func(ctx context.Context) error {
		found, err := v.Find(ctx, server.URL+"/acme/app", w.commits["openpgp"], "")
		if err == nil && !found.Tag.By.Verified() {
			err = errors.New(found.Tag.Err)
		}
		return err
	}
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { first <- find(ctx) }()
	<-arrived
	giveUp()
	if err := <-first; !errors.Is(err, context.Canceled) || !evidence.Temporary(err) {
		t.Errorf("the one that gave up: %v", err)
	}
	var others, calling sync.WaitGroup
	for range 8 {
		calling.Add(1)
		others.Go(func() {
			calling.Done()
			if err := find(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	calling.Wait()
	close(release)
	others.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times, want once", n)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		options gittag.Options
		says    string
	}{
		"an empty host":      {gittag.Options{Hosts: []string{""}}, "an empty pattern matches nothing"},
		"a broken pattern":   {gittag.Options{Hosts: []string{"https://github.com/{acme"}}, `the git host "https://github.com/{acme"`},
		"a CA that is none":  {gittag.Options{CA: []byte("hello")}, "holds no PEM certificate"},
		"negative bytes":     {gittag.Options{MaxBytes: -1}, "negative"},
		"a negative timeout": {gittag.Options{Timeout: -1}, "negative"},
		"negative entries":   {gittag.Options{Entries: -1}, "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := gittag.New(tc.options); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want it to say %q", err, tc.says)
			}
		})
	}
	if err := gittag.CheckHost("https://github.com/[acme"); err == nil {
		t.Error("CheckHost takes a broken pattern")
	}
	if err := gittag.CheckHost("github.com/acme/*"); err != nil {
		t.Error(err)
	}
}
