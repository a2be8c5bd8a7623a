package gittag_test

import (
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trustgate/trustgate/evidence/gittag"
)

const recipe = "FROM scratch\nCOPY app /app\n"

var serverSettings = map[string][]string{
	// As forges are set up: each object is handed out by its name.
	"forge": {"uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"},
	// What can be asked for is what refs lead to, but parts of it.
	"filtering": {"uploadpack.allowFilter"},
	// As git is without any settings.
	"plain": nil,
}

var makeFiles sync.Once

// files makes, once for all tests, a repository for each of serverSettings, with
// every kind of file that a Dockerfile can be, and a signed tag.
func (w *world) files(t testing.TB) {
	t.Helper()
	makeFiles.Do(func() { w.makeFiles(t) })
}

func (w *world) makeFiles(t testing.TB) {
	s := &script{w: w, dir: filepath.Join(w.root, "acme", "plain")}
	write := func(path, content string) {
		path = filepath.Join(s.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("Dockerfile", recipe)
	write("a/deep/folder/api.Dockerfile", "FROM api\n")
	write("only/Containerfile", "FROM podman\n")
	write("empty", "")
	write("latin1", "# caf\xe9\n")
	write("folder/Dockerfile/README", "a folder\n")
	write("big/huge", noise(1<<20+1))
	write("big/limit", noise(1<<20))
	// Deltas of each other, once they are packed.
	for i := range 4 {
		write("similar/"+string(rune('a'+i)), noise(64<<10)+strings.Repeat("x", i))
	}
	for path, to := range map[string]string{"link": "Dockerfile", "absolute": "/etc/passwd", "linked": "a"} {
		if err := os.Symlink(to, filepath.Join(s.dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	s.git("init", "--quiet", "--initial-branch=main")
	s.git("add", "--all")
	s.git("update-index", "--add", "--cacheinfo", "160000,"+w.commits["openpgp"]+",module")
	s.git("update-index", "--chmod=+x", "only/Containerfile")
	s.commit("files")
	s.tag("v1.0", w.withKey(w.release)...)
	s.git("repack", "-adfq")
	for name, settings := range serverSettings {
		if name != "plain" {
			s.run("", "cp", "-r", s.dir, filepath.Join(w.root, "acme", name))
		}
		for _, setting := range settings {
			s.git("-C", filepath.Join(w.root, "acme", name), "config", setting, "true")
		}
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
}

func TestFindReadsAFile(t *testing.T) {
	w := theWorld(t)
	w.files(t)
	server := httptest.NewServer(replay(w.backend(t)))
	defer server.Close()
	bases := map[string]string{"HTTP": server.URL, "git": "git://" + w.daemon(t)}
	v := verifier(t, w.options())
	for name, tc := range map[string]struct {
		paths         []string
		path, content string
		says          string
		everywhere    bool // over each transport, of each kind of server
	}{
		"the one asked for":             {paths: []string{"Dockerfile"}, path: "Dockerfile", content: recipe, everywhere: true},
		"the first of two":              {paths: []string{"Dockerfile", "Containerfile"}, path: "Dockerfile", content: recipe},
		"the second, an executable":     {paths: []string{"only/Dockerfile", "only/Containerfile"}, path: "only/Containerfile", content: "FROM podman\n"},
		"one below folders":             {paths: []string{"a/deep/folder/api.Dockerfile"}, path: "a/deep/folder/api.Dockerfile", content: "FROM api\n", everywhere: true},
		"an empty one":                  {paths: []string{"empty"}, path: "empty"},
		"one that is a delta":           {paths: []string{"similar/c"}, path: "similar/c", content: noise(64<<10) + "xx"},
		"one of a MiB":                  {paths: []string{"big/limit"}, path: "big/limit", content: noise(1 << 20)},
		"one that is longer":            {paths: []string{"big/huge"}, path: "big/huge", says: "it is larger than 1048576 bytes"},
		"none that is not there":        {paths: []string{"missing/Dockerfile", "missing/Containerfile"}, path: "missing/Dockerfile", says: "there is no missing/Dockerfile or missing/Containerfile in ", everywhere: true},
		"none below a file":             {paths: []string{"Dockerfile/Dockerfile"}, path: "Dockerfile/Dockerfile", says: "there is no Dockerfile/Dockerfile in "},
		"none that is a folder":         {paths: []string{"folder/Dockerfile"}, path: "folder/Dockerfile", says: "there is no folder/Dockerfile in "},
		"none that is a link":           {paths: []string{"link", "Dockerfile"}, path: "link", says: `"link" is a symbolic link, which TrustGate does not follow`},
		"none that is a link out of it": {paths: []string{"absolute"}, path: "absolute", says: `"absolute" is a symbolic link`},
		"none behind a link":            {paths: []string{"linked/deep/folder/api.Dockerfile"}, path: "linked/deep/folder/api.Dockerfile", says: `"linked" is a symbolic link`},
		"none that is a submodule":      {paths: []string{"module"}, path: "module", says: `"module" is a submodule, which is another repository`},
		"none in a submodule":           {paths: []string{"module/Dockerfile"}, path: "module/Dockerfile", says: `"module" is a submodule`},
		"none that is no text":          {paths: []string{"latin1"}, path: "latin1", says: "it is not text in UTF-8"},
		"none above the repository":     {paths: []string{"a/../../Dockerfile"}, path: "a/../../Dockerfile", says: "not the plain path of a file"},
		"none by a path from the root":  {paths: []string{"/Dockerfile"}, path: "/Dockerfile", says: "not the plain path of a file"},
		"none by no path":               {paths: []string{""}},
		"none below too many folders":   {paths: []string{strings.Repeat("a/", 40) + "b"}, path: strings.Repeat("a/", 40) + "b", says: "not the plain path of a file"},
	} {
		t.Run(name, func(t *testing.T) {
			for transport, base := range bases {
				for repository := range serverSettings {
					if !tc.everywhere && (transport != "HTTP" || repository == "filtering") {
						continue
					}
					found, err := v.Find(t.Context(), base+"/acme/"+repository, w.commits["files"], "", tc.paths...)
					if err != nil {
						t.Fatalf("%s, %s: %v", transport, repository, err)
					}
					if !found.Tag.By.Verified() {
						t.Errorf("%s, %s: the tag is %+v", transport, repository, found.Tag)
					}
					f := found.File
					if f.Path != tc.path || f.Content != tc.content || (f.Err == "") != (tc.says == "") || !strings.Contains(f.Err, tc.says) {
						t.Errorf("%s, %s: got %q with %d bytes, %q; want %q with %d, %q",
							transport, repository, f.Path, len(f.Content), f.Err, tc.path, len(tc.content), tc.says)
					}
				}
			}
		})
	}
}

// TestFileWithoutTheCommit asks for a file at a revision that cannot be had.
func TestFileWithoutTheCommit(t *testing.T) {
	w := theWorld(t)
	w.files(t)
	w.repository(t, "void", func(*script) {})
	server := httptest.NewServer(replay(w.backend(t)))
	defer server.Close()
	for name, tc := range map[string]struct{ repository, revision, says string }{
		"one that no ref is at":    {"plain", strings.Repeat("ab", 20), "its server hands out no other commits"},
		"an empty repository":      {"void", strings.Repeat("ab", 20), "the repository is empty"},
		"an abbreviation":          {"plain", w.commits["files"][:12], "not the full name of a commit"},
		"a revision of a worktree": {"plain", w.commits["files"] + "-dirty", "not the full name of a commit"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := verifier(t, w.options()).Find(t.Context(), server.URL+"/acme/"+tc.repository, tc.revision, "", "Dockerfile", "Containerfile")
			if err != nil || found.File.Path != "Dockerfile" || found.File.Content != "" || !strings.Contains(found.File.Err, tc.says) {
				t.Errorf("got %+v, %v", found, err)
			}
		})
	}
}

// watched is the real server; what it is asked is remembered, and may be
// changed or answered otherwise.
type watched struct {
	*httptest.Server
	connections atomic.Int32

	mu     sync.Mutex
	bodies []string
}

func (w *world) watch(t *testing.T, answer func(n int, body string, rw http.ResponseWriter, r *http.Request) (string, bool)) *watched {
	backend := w.backend(t)
	seen := &watched{}
	seen.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		body := string(raw)
		if r.Method == http.MethodPost {
			seen.mu.Lock()
			seen.bodies = append(seen.bodies, body)
			n := len(seen.bodies)
			seen.mu.Unlock()
			if answer != nil {
				answered := false
				if body, answered = answer(n, body, rw, r); answered {
					return
				}
			}
		}
		r.Body = io.NopCloser(strings.NewReader(body))
		r.ContentLength = int64(len(body))
		backend.ServeHTTP(rw, r)
	}))
	seen.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			seen.connections.Add(1)
		}
	}
	seen.Start()
	t.Cleanup(seen.Close)
	return seen
}

// TestFileTakesNoMoreThanNeeded counts what one look-up costs.
func TestFileTakesNoMoreThanNeeded(t *testing.T) {
	w := theWorld(t)
	w.files(t)
	for name, tc := range map[string]struct {
		repository, path string
		requests         int
		filter           string
	}{
		"a file at the root":                     {"forge", "Dockerfile", 2, "filter tree:1\n"},
		"a file below three folders":             {"forge", "a/deep/folder/api.Dockerfile", 5, "filter tree:1\n"},
		"no file":                                {"forge", "missing", 1, "filter tree:1\n"},
		"a file of a server that knows no names": {"plain", "Dockerfile", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := w.watch(t, nil)
			v := verifier(t, w.options())
			for range 2 { // the second time it is remembered
				if found, err := v.Find(t.Context(), server.URL+"/acme/"+tc.repository, w.commits["files"], "", tc.path); err != nil || !found.Tag.By.Verified() {
					t.Fatalf("got %+v, %v", found, err)
				}
			}
			if len(server.bodies) != tc.requests || server.connections.Load() != 1 {
				t.Errorf("%d requests over %d connections, want %d over one", len(server.bodies), server.connections.Load(), tc.requests)
			}
			for i, body := range server.bodies {
				if strings.Count(body, "want ") != 1 || (i == 0 && !strings.Contains(body, tc.filter)) {
					t.Errorf("it was asked for %q", body)
				}
			}
		})
	}
	t.Run("a long file is not remembered", func(t *testing.T) {
		server := w.watch(t, nil)
		v := verifier(t, w.options())
		for range 2 {
			if found, err := v.Find(t.Context(), server.URL+"/acme/forge", w.commits["files"], "", "big/limit"); err != nil || len(found.File.Content) != 1<<20 {
				t.Fatalf("got %d bytes, %v", len(found.File.Content), err)
			}
		}
		if len(server.bodies) != 6 {
			t.Errorf("it was asked %d times", len(server.bodies))
		}
	})
}

// TestFileOfServersThatLie: the tag stands whatever becomes of the file, and the
// file is what the revision commits to, or none.
func TestFileOfServersThatLie(t *testing.T) {
	w := theWorld(t)
	w.files(t)
	s := &script{w: w, dir: filepath.Join(w.root, "acme", "forge")}
	file, other, tree := s.git("rev-parse", "HEAD:Dockerfile"), s.git("rev-parse", "HEAD:only/Containerfile"), s.git("rev-parse", "HEAD:a")
	if s.err != nil {
		t.Fatal(s.err)
	}
	swap := func(from, to string) func(int, string, http.ResponseWriter, *http.Request) (string, bool) {
		return func(_ int, body string, _ http.ResponseWriter, _ *http.Request) (string, bool) {
			return strings.ReplaceAll(body, "want "+from, "want "+to), false
		}
	}
	second := func(serve http.HandlerFunc) func(int, string, http.ResponseWriter, *http.Request) (string, bool) {
		return func(n int, body string, rw http.ResponseWriter, r *http.Request) (string, bool) {
			if n == 2 {
				serve(rw, r)
			}
			return body, n == 2
		}
	}
	for name, tc := range map[string]struct {
		answer func(int, string, http.ResponseWriter, *http.Request) (string, bool)
		path   string
		says   string
		again  bool // whether it is asked again after a minute
	}{
		"by handing out another file":   {answer: swap(file, other), path: "Dockerfile", says: "the repository did not hand out the blob " + file},
		"by handing out a folder":       {answer: swap(file, tree), path: "Dockerfile", says: "the repository did not hand out the blob " + file},
		"by handing out another folder": {answer: swap(tree, file), path: "a/deep/folder/api.Dockerfile", says: "the repository did not hand out the tree " + tree},
		"that there is no such object":  {answer: swap(file, strings.Repeat("ab", 20)), path: "Dockerfile", says: "the repository did not hand out the blob " + file},
		"by failing then":               {answer: second(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(503) }), path: "Dockerfile", says: "it answers 503", again: true},
		"by sending something else":     {answer: second(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "<html>") }), path: "Dockerfile", says: "is broken or lies"},
	} {
		t.Run(name, func(t *testing.T) {
			server := w.watch(t, tc.answer)
			now := soon()
			o := w.options()
			o.Now = func() time.Time { return now }
			v := verifier(t, o)
			find := func() gittag.Result {
				t.Helper()
				found, err := v.Find(t.Context(), server.URL+"/acme/forge", w.commits["files"], "", tc.path)
				if err != nil || !found.Tag.By.Verified() {
					t.Fatalf("got %+v, %v", found, err)
				}
				return found
			}
			if f := find().File; f.Content != "" || f.Path != tc.path || !strings.Contains(f.Err, tc.says) {
				t.Errorf("got %q with %q, %q", f.Path, f.Content, f.Err)
			}
			asked := len(server.bodies)
			now = now.Add(2 * time.Minute)
			if find(); (len(server.bodies) > asked) != tc.again {
				t.Errorf("it was asked %d times, and then %d", asked, len(server.bodies))
			}
		})
	}
	t.Run("by never answering", func(t *testing.T) {
		backend := replay(w.backend(t))
		var hangs atomic.Bool
		var posts atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if hangs.Load() && r.Method == http.MethodPost && posts.Add(1) == 2 {
				// A server notices that its client is gone once it has read the request.
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return
			}
			backend.ServeHTTP(rw, r)
		}))
		defer server.Close()
		find := func(o gittag.Options) gittag.Result {
			found, err := verifier(t, o).Find(t.Context(), server.URL+"/acme/forge", w.commits["files"], "", "Dockerfile")
			if err != nil || !found.Tag.By.Verified() {
				t.Fatalf("got %+v, %v", found, err)
			}
			return found
		}
		if f := find(w.options()).File; f.Content != recipe {
			t.Fatalf("got %+v", f)
		}
		// From here on the answers are at hand.
		hangs.Store(true)
		o := w.options()
		o.Timeout = 500 * time.Millisecond
		if f := find(o).File; !strings.Contains(f.Err, "no answer within 500ms") {
			t.Errorf("got %+v", f)
		}
	})
}

// TestFileBeyondTheBound: a repository that is too large for its file to be
// found has its tag looked at nevertheless.
func TestFileBeyondTheBound(t *testing.T) {
	w := theWorld(t)
	w.files(t)
	server := httptest.NewServer(w.backend(t))
	defer server.Close()
	o := w.options()
	o.MaxBytes = 256 << 10
	found, err := verifier(t, o).Find(t.Context(), server.URL+"/acme/plain", w.commits["files"], "", "similar/c")
	if err != nil || !found.Tag.By.Verified() || found.File.Content != "" || !strings.Contains(found.File.Err, "it sends more than 256 KiB") {
		t.Errorf("got %+v, %v", found, err)
	}
}

// TestCraftedTrees puts folders at commits that no git would make.
func TestCraftedTrees(t *testing.T) {
	w := theWorld(t)
	w.repository(t, "trees", func(s *script) {
		s.git("config", "uploadpack.allowFilter", "true")
		s.git("config", "uploadpack.allowAnySHA1InWant", "true")
		s.commit("trees")
	})
	s := &script{w: w, dir: filepath.Join(w.root, "acme", "trees")}
	blob := s.run("FROM evil\n", "git", "hash-object", "-w", "--stdin")
	raw := unhex(t, blob)
	trees := map[string]struct{ tree, says string }{
		"good":       {"100644 Dockerfile\x00" + raw, ""},
		"twice":      {"100644 Dockerfile\x00" + raw + "100644 Dockerfile\x00" + strings.Repeat("\x01", 20), `"Dockerfile" is there twice`},
		"long-mode":  {"0000100644 Dockerfile\x00" + raw, "cannot be read"},
		"device":     {"60644 Dockerfile\x00" + raw, "is neither a file nor a folder"},
		"a-commit":   {"100644 Dockerfile\x00" + unhex(t, w.commits["trees"]), "the repository did not hand out the blob " + w.commits["trees"]},
		"lower-case": {"100644 dockerfile\x00" + raw, "there is no Dockerfile in "},
	}
	objects := map[string]string{}
	for name, tc := range trees {
		objects[name] = tc.tree
	}
	ids := s.graft("tree", "refs/trees/", objects)
	commits := map[string]string{}
	for name, id := range ids {
		commits[name] = "tree " + id + "\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\n" + name
	}
	heads := s.graft("commit", "refs/heads/", commits)
	if s.err != nil {
		t.Fatal(s.err)
	}
	server := httptest.NewServer(w.backend(t))
	defer server.Close()
	v := verifier(t, w.options())
	for name, tc := range trees {
		t.Run(name, func(t *testing.T) {
			found, err := v.Find(t.Context(), server.URL+"/acme/trees", heads[name], "", "Dockerfile")
			if err != nil || (found.File.Err == "") != (tc.says == "") || (found.File.Content == "") != (tc.says != "") || !strings.Contains(found.File.Err, tc.says) {
				t.Errorf("got %+v, %v, want it to say %q", found.File, err, tc.says)
			}
		})
	}
}

func unhex(t testing.TB, name string) string {
	t.Helper()
	raw, err := hex.DecodeString(name)
	if err != nil || len(raw) != 20 {
		t.Fatalf("%q is no object's name: %v", name, err)
	}
	return string(raw)
}
