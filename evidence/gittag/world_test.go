package gittag_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trustgate/trustgate/evidence/gittag"
	"github.com/trustgate/trustgate/evidence/openpgp"
)

var update = flag.Bool("update", false, "write the signed objects in testdata anew, with new keys")

// The world is a repository that the real git made, with keys of the real gpg
// and ssh-keygen, at root/acme/app.
type world struct {
	dir, root, gnupg string

	release, stranger, brief string // OpenPGP fingerprints
	sshRelease, sshStranger  string // paths of private SSH keys
	commits                  map[string]string
	openPGP                  openpgp.Signer
	ssh                      gittag.SSHSigner
}

var (
	made     world
	makeOnce sync.Once
	makeErr  error
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if made.gnupg != "" {
		made.command("", "gpgconf", "--kill", "all").Run()
		os.RemoveAll(made.dir)
	}
	os.Exit(code)
}

// theWorld is made once; nobody changes what is in it.
func theWorld(t testing.TB) *world {
	t.Helper()
	makeOnce.Do(func() { makeErr = made.build() })
	if makeErr != nil {
		t.Fatal(makeErr)
	}
	return &made
}

func (w *world) command(dir string, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"GNUPGHOME="+w.gnupg, "LC_ALL=C", "HOME="+w.dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Release", "GIT_AUTHOR_EMAIL=release@example.com", "GIT_COMMITTER_NAME=Release", "GIT_COMMITTER_EMAIL=release@example.com",
	)
	return cmd
}

// run runs a program with input on stdin and returns what it prints, trimmed.
func (w *world) run(dir, input, name string, args ...string) (string, error) {
	cmd := w.command(dir, name, args...)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
}

// script runs one program after the other until one fails.
type script struct {
	w   *world
	dir string
	err error
}

func (s *script) run(input, name string, args ...string) string {
	if s.err != nil {
		return ""
	}
	out, err := s.w.run(s.dir, input, name, args...)
	s.err = err
	return out
}

func (s *script) git(args ...string) string { return s.run("", "git", args...) }

// commit makes an empty commit and remembers it by name.
func (s *script) commit(name string, args ...string) {
	s.git(append(args, "commit", "--quiet", "--allow-empty", "--message", name)...)
	s.w.commits[name] = s.git("rev-parse", "HEAD")
}

// tag makes a signed tag.
func (s *script) tag(name string, more ...string) {
	s.git(append(more, "tag", "--sign", "--message", "The release "+name, name)...)
}

// graft puts objects of any content under refs and returns their names.
func (s *script) graft(kind, prefix string, contents map[string]string) map[string]string {
	if s.err != nil {
		return nil
	}
	folder, err := os.MkdirTemp(s.w.dir, "graft")
	if err != nil {
		s.err = err
		return nil
	}
	names := slices.Sorted(maps.Keys(contents))
	var paths, refs strings.Builder
	for i, name := range names {
		path := filepath.Join(folder, fmt.Sprint(i))
		fmt.Fprintln(&paths, path)
		if err := os.WriteFile(path, []byte(contents[name]), 0o600); err != nil {
			s.err = err
		}
	}
	ids := map[string]string{}
	for i, id := range strings.Fields(s.run(paths.String(), "git", "hash-object", "-t", kind, "-w", "--literally", "--stdin-paths")) {
		ids[names[i]] = id
		fmt.Fprintf(&refs, "update %s%s %s\n", prefix, names[i], id)
	}
	s.run(refs.String(), "git", "update-ref", "--stdin")
	return ids
}

func (w *world) withKey(fingerprint string) []string {
	return []string{"-c", "user.signingKey=" + fingerprint}
}

func (w *world) withSSH(key string) []string {
	return []string{"-c", "gpg.format=ssh", "-c", "user.signingKey=" + key + ".pub"}
}

func (w *world) build() error {
	for program, pkg := range map[string]string{"git": "git", "gpg": "gnupg", "gpg-agent": "gpg-agent", "ssh-keygen": "openssh-client"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("these tests need the real %s; install the package %s", program, pkg)
		}
	}
	// The agent's socket must fit into 108 bytes, which t.TempDir may not.
	dir, err := os.MkdirTemp("", "gittag")
	if err != nil {
		return err
	}
	*w = world{dir: dir, root: filepath.Join(dir, "srv"), gnupg: filepath.Join(dir, "gnupg"), commits: map[string]string{}}
	app := filepath.Join(w.root, "acme", "app")
	for _, d := range []string{app, w.gnupg} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	s := &script{w: w, dir: app}
	w.release, w.stranger, w.brief = s.openPGPKey("release", "never"), s.openPGPKey("stranger", "never"), s.openPGPKey("brief", "1d")
	w.sshRelease, w.sshStranger = s.sshKey("release"), s.sshKey("stranger")

	s.git("init", "--quiet", "--initial-branch=main")
	s.commit("openpgp")
	s.tag("v1.0", w.withKey(w.release)...)
	s.commit("ssh")
	s.tag("v2.0", w.withSSH(w.sshRelease)...)
	s.commit("unsigned")
	s.git("tag", "--annotate", "--message", "The release v3.0", "v3.0")
	s.commit("lightweight")
	s.git("tag", "v4.0")
	s.commit("stranger")
	s.tag("v5.0", w.withKey(w.stranger)...)
	s.commit("ssh stranger")
	s.tag("v5.1", w.withSSH(w.sshStranger)...)
	s.commit("renamed")
	s.tag("v6.0-rc1", w.withKey(w.release)...)
	s.git("update-ref", "refs/tags/v6.0", s.git("rev-parse", "refs/tags/v6.0-rc1"))
	s.git("tag", "--delete", "v6.0-rc1")
	s.commit("brief")
	s.tag("v7.0", w.withKey(w.brief)...)
	s.commit("nested")
	s.tag("v8.0-inner", w.withKey(w.release)...)
	s.git(append(w.withKey(w.release), "tag", "--sign", "--message", "A tag of a tag", "v8.0", "v8.0-inner")...)
	s.git("update-ref", "-d", "refs/tags/v8.0-inner")
	s.commit("several")
	s.git("tag", "--annotate", "--message", "The release", "v9.0")
	s.git("tag", "v9.1")
	s.tag("v9.2", w.withKey(w.release)...)
	s.tag("lib/v9.3", w.withSSH(w.sshRelease)...)
	s.commit("several, none signed")
	s.git("tag", "--annotate", "--message", "The release", "v10.0")
	s.git("tag", "v10.1")
	s.commit("x509")
	s.graft("tag", "refs/tags/", map[string]string{
		"v11.0": w.tagText("x509", "v11.0") + "-----BEGIN SIGNED MESSAGE-----\nMIIE\n-----END SIGNED MESSAGE-----\n",
	})
	s.commit("signed twice", append(w.withSSH(w.sshRelease), "-c", "commit.gpgSign=true")...)
	s.tag("v12.0", w.withKey(w.release)...)
	s.commit("inner, signed", append(w.withKey(w.release), "-c", "commit.gpgSign=true")...)
	s.commit("branch, signed", append(w.withSSH(w.sshRelease), "-c", "commit.gpgSign=true")...)
	s.git("branch", "signed")
	s.commit("branch, stranger", append(w.withKey(w.stranger), "-c", "commit.gpgSign=true")...)
	s.git("branch", "stranger")
	s.commit("tip")

	ring, err := w.run(app, "", "gpg", "--batch", "--armor", "--export", w.release, w.brief)
	if err := errors.Join(s.err, err); err != nil {
		return err
	}
	if w.openPGP, err = openpgp.LoadSigner("release", []byte(ring)); err != nil {
		return err
	}
	public, err := os.ReadFile(w.sshRelease + ".pub")
	if err != nil {
		return err
	}
	allowed := append([]byte("release@example.com "), public...)
	if w.ssh, err = gittag.LoadSSHSigner("release-ssh", allowed); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.dir, "allowed_signers"), allowed, 0o600)
}

// tagText is a tag object without its signature.
func (w *world) tagText(commit, name string) string {
	return fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger Release <release@example.com> %d +0000\n\nThe release %s\n",
		w.commits[commit], name, time.Now().Unix(), name)
}

func (s *script) openPGPKey(who, expires string) string {
	s.run("", "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", who+"@example.com", "ed25519", "sign", expires)
	for line := range strings.Lines(s.run("", "gpg", "--batch", "--with-colons", "--list-keys", who+"@example.com")) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			return fields[9]
		}
	}
	return ""
}

func (s *script) sshKey(who string) string {
	path := filepath.Join(s.w.dir, who)
	s.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", path)
	return path
}

// repository makes another repository below root with one commit of that name,
// and returns its folder.
func (w *world) repository(t testing.TB, name string, build func(s *script)) {
	t.Helper()
	s := &script{w: w, dir: filepath.Join(w.root, "acme", name)}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.git("init", "--quiet", "--initial-branch=main")
	build(s)
	if s.err != nil {
		t.Fatal(s.err)
	}
	t.Cleanup(func() { os.RemoveAll(s.dir) })
}

// backend is the real server over HTTP.
func (w *world) backend(t testing.TB) http.Handler {
	t.Helper()
	libexec, err := w.run("", "", "git", "--exec-path")
	if err != nil {
		t.Fatal(err)
	}
	return &cgi.Handler{
		Path: filepath.Join(libexec, "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + w.root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=" + w.dir},
		// A client that stops reading is not worth a line in the log.
		Stderr: io.Discard, Logger: log.New(io.Discard, "", 0),
	}
}

// replay asks the real server each thing once, where many cases ask the same.
func replay(server http.Handler) http.Handler {
	type key struct{ method, url, body string }
	answers := map[key]*httptest.ResponseRecorder{}
	var mu sync.Mutex
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		defer mu.Unlock()
		k := key{r.Method, r.URL.String(), string(body)}
		if answers[k] == nil {
			answers[k] = httptest.NewRecorder()
			server.ServeHTTP(answers[k], r)
		}
		maps.Copy(rw.Header(), answers[k].Header())
		rw.WriteHeader(answers[k].Code)
		rw.Write(answers[k].Body.Bytes())
	})
}

// daemon serves root over git:// and returns its address. The real daemon
// serves one connection at a time on its stdin, so that no port need be free.
func (w *world) daemon(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { listener.Close() })
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				file, err := conn.(*net.TCPConn).File()
				if err != nil {
					t.Error(err)
					return
				}
				defer file.Close()
				cmd := w.command("", "git", "daemon", "--inetd", "--export-all", "--base-path="+w.root)
				cmd.Stdin, cmd.Stdout = file, file
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				// It fails when its client leaves early, as TrustGate does.
				cmd.Wait()
			})
		}
	})
	return listener.Addr().String()
}

// soon is late enough for what was made a moment ago, to the second.
func soon() time.Time { return time.Now().Add(time.Minute) }

// options believe the world's signers and reach this machine.
func (w *world) options() gittag.Options {
	return gittag.Options{
		OpenPGP: []openpgp.Signer{w.openPGP}, SSH: []gittag.SSHSigner{w.ssh},
		Hosts: []string{"*://127.0.0.1:*/acme/*"}, Private: true, Insecure: true, Now: soon,
		Timeout: 5 * time.Minute, // however busy the machine is
	}
}

func verifier(t testing.TB, o gittag.Options) *gittag.Verifier {
	t.Helper()
	v, err := gittag.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (w *world) read(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestFixtures holds what the fuzz targets start from to what they need of it.
// It is kept because each of their processes must know the keys.
func TestFixtures(t *testing.T) {
	w := theWorld(t)
	if *update {
		w.writeFixtures(t)
	}
	if _, err := openpgp.LoadSigner("release", []byte(w.read(t, "testdata/release.asc"))); err != nil {
		t.Error(err)
	}
	if _, err := gittag.LoadSSHSigner("release", []byte(w.read(t, "testdata/allowed_signers"))); err != nil {
		t.Error(err)
	}
	// The real git agrees that these are a tag and a commit.
	s := &script{w: w, dir: filepath.Join(w.root, "acme", "app")}
	for file, kind := range map[string]string{"tag.pgp": "tag", "tag.ssh": "tag", "commit.pgp": "commit", "commit.ssh": "commit"} {
		s.run(w.read(t, "testdata/"+file), "git", "hash-object", "-t", kind, "--stdin")
	}
	if s.err != nil {
		t.Error(s.err)
	}
}

func (w *world) writeFixtures(t *testing.T) {
	t.Helper()
	w.repository(t, "fixtures", func(s *script) {
		s.run("", "sh", "-c", "echo hello >file && git add file")
		write := func(name, text string) {
			if err := os.WriteFile(filepath.Join("testdata", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		object := func(name, kind, id string) {
			out, err := w.command(s.dir, "git", "cat-file", kind, id).Output()
			if err != nil {
				t.Fatal(err)
			}
			write(name, string(out))
		}
		for name, with := range map[string][]string{"pgp": w.withKey(w.release), "ssh": w.withSSH(w.sshRelease)} {
			s.git(append(with, "-c", "commit.gpgSign=true", "commit", "--quiet", "--allow-empty", "--message", "The release")...)
			s.git(append(with, "tag", "--force", "--sign", "--message", "The release", "v1.0")...)
			object("tag."+name, "tag", "v1.0")
			object("commit."+name, "commit", "HEAD")
		}
		write("release.asc", s.run("", "gpg", "--batch", "--armor", "--export", w.release)+"\n")
		write("allowed_signers", "release@example.com "+w.read(t, w.sshRelease+".pub"))
		list := s.git("rev-parse", "HEAD", "HEAD^{tree}", "HEAD:file") + "\n"
		write("revision", s.git("rev-parse", "HEAD")+"\n")
		for i := range 5 {
			name := fmt.Sprintf("v2.%d", i)
			s.git("tag", "--annotate", "--message", strings.Repeat("The same long notes of every release.\n", 8)+name, name)
			list += s.git("rev-parse", name) + "\n"
		}
		prefix := filepath.Join(t.TempDir(), "pack")
		id := s.run(list, "git", "pack-objects", "--quiet", "--delta-base-offset", prefix)
		if s.err != nil {
			t.Fatal(s.err)
		}
		write("objects.pack", w.read(t, prefix+"-"+id+".pack"))
		list, _, _ = strings.Cut(s.git("verify-pack", "--verbose", prefix+"-"+id+".idx"), prefix)
		write("objects.verbose", list)
	})
}
