package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// Route tells by which names a registry is reached through the gate.
type Route struct {
	Registry string   // as in references
	Hosts    []string // further names
	Default  bool     // serves names without a registry in front
	Push     PushMode // "" is PushDeny
}

type routes struct {
	byName   map[string]string // lower-case name to registry
	known    []string
	fallback string

	push        map[string]PushMode // by registry
	takesPushes bool                // some route does

	// read holds what names meant to clients that sent no ?ns=: the host and the
	// name decide, and nothing that changes.
	read *lru.Cache[meant, oci.Reference]
}

type meant struct{ host, name string }

const (
	maxRead = 8192
	maxName = 512 // bytes of a host and a name that are held
)

// Repositories is how routes read which repository a request means by a name.
func Repositories(list []Route) (func(*http.Request, string) (oci.Reference, error), error) {
	r, err := newRoutes(list)
	return r.repository, err
}

func newRoutes(list []Route) (routes, error) {
	r := routes{byName: map[string]string{}, push: map[string]PushMode{}}
	r.read, _ = lru.New[meant, oci.Reference](maxRead)
	for _, route := range list {
		r.push[route.Registry] = route.Push
		r.takesPushes = r.takesPushes || route.Push == PushPass || route.Push == PushJudge
		r.known = append(r.known, route.Registry)
		for _, name := range append([]string{route.Registry}, route.Hosts...) {
			name = strings.ToLower(name)
			if other, taken := r.byName[name]; taken && other != route.Registry {
				return routes{}, fmt.Errorf("both %s and %s are reached as %s", other, route.Registry, name)
			}
			r.byName[name] = route.Registry
		}
		if route.Default {
			if r.fallback != "" {
				return routes{}, fmt.Errorf("both %s and %s are the default route", r.fallback, route.Registry)
			}
			r.fallback = route.Registry
		}
	}
	slices.Sort(r.known)
	return r, nil
}

// repository says which repository the request means. The registry is named by
// ?ns=, which containerd sends, by the Host header, by the first element of the
// path, or not at all. Every name is looked up in a closed list; none is ever
// dialled.
func (r routes) repository(req *http.Request, name string) (oci.Reference, error) {
	if req.URL.RawQuery != "" || len(req.Host)+len(name) > maxName {
		return r.parse(req, name)
	}
	asked := meant{req.Host, name}
	if ref, ok := r.read.Get(asked); ok {
		return ref, nil
	}
	ref, err := r.parse(req, name)
	if err == nil {
		r.read.Add(meant{strings.Clone(asked.host), strings.Clone(asked.name)}, ref)
	}
	return ref, err
}

func (r routes) parse(req *http.Request, name string) (oci.Reference, error) {
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return oci.Reference{}, fmt.Errorf("%w: the query: %v", errBadRequest, err)
	}
	if ns := query["ns"]; len(ns) > 0 {
		if len(ns) > 1 {
			return oci.Reference{}, fmt.Errorf("%w: ns is given twice", errBadRequest)
		}
		registry, ok := r.named(ns[0])
		if !ok {
			return oci.Reference{}, fmt.Errorf("%q: %w (known: %s)", clip(ns[0], 100), gate.ErrUnknownRegistry, strings.Join(r.known, ", "))
		}
		return oci.NewReference(registry, name)
	}
	if registry, ok := r.named(req.Host); ok {
		return oci.NewReference(registry, name)
	}
	if first, rest, ok := strings.Cut(name, "/"); ok {
		if registry, ok := r.named(first); ok {
			return oci.NewReference(registry, rest)
		}
	}
	if r.fallback != "" {
		return oci.NewReference(r.fallback, name)
	}
	return oci.Reference{}, fmt.Errorf("%q: %w (known: %s)", clip(name, 100), gate.ErrUnknownRegistry, strings.Join(r.known, ", "))
}

// named looks a registry up. Case is folded for ASCII alone: there are other
// letters whose lower case is an ASCII one.
func (r routes) named(name string) (registry string, ok bool) {
	if strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", false
	}
	registry, ok = r.byName[strings.ToLower(name)]
	return registry, ok
}

type operation string

const (
	opUnknown   operation = "unknown"
	opBase      operation = "base"
	opManifest  operation = "manifest"
	opBlob      operation = "blob"
	opTags      operation = "tags"
	opReferrers operation = "referrers"
	opUpload    operation = "upload"

	opSignatures operation = "signatures"
)

// call is a parsed request path.
type call struct {
	operation operation
	name      string // as the client wrote it
	reference string // a tag, a digest, or an upload's id
	client    policy.Client
}

var (
	errBadRequest = errors.New("bad request")
	errNoSuchCall = errors.New("not part of the registry API")
)

// maxPath bounds the request path: a name has 255 characters at most, a digest
// 135.
const maxPath = 1024

// parse reads the path of a request. Percent-encoded separators are refused
// here, dots that climb, doubled slashes and what is not ASCII where the name is
// read, so that what is parsed is what any other reader of the same path would
// see.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints
func parse(u *url.URL) (call, error) {
	none := call{operation: opUnknown}
	if len(u.Path) > maxPath {
		return none, fmt.Errorf("%w: the path is too long", errBadRequest)
	}
	if hidesSeparators(u) {
		return none, fmt.Errorf("%w: the path hides separators", errBadRequest)
	}
	if u.Path == "/v2/" || u.Path == "/v2" {
		return call{operation: opBase}, nil
	}
	rest, ok := strings.CutPrefix(u.Path, "/v2/")
	extended := false
	if !ok {
		if rest, extended = strings.CutPrefix(u.Path, extensions); !extended {
			return none, errNoSuchCall
		}
	}
	head, last, _ := cutLast(rest)
	name, kind, ok := cutLast(head)
	if !ok {
		return none, errNoSuchCall
	}
	c := call{name: name, reference: last}
	if extended {
		if c.operation = opSignatures; kind != "signatures" {
			return none, errNoSuchCall
		}
		return c, nil
	}
	switch kind {
	case "manifests":
		c.operation = opManifest
	case "uploads": // with an id, or just a slash after it
		c.operation = opUpload
		if c.name, ok = strings.CutSuffix(name, "/blobs"); !ok {
			return none, errNoSuchCall
		}
	case "blobs":
		if c.operation = opBlob; last == "uploads" {
			c.operation, c.reference = opUpload, ""
		}
	case "referrers":
		c.operation = opReferrers
	case "tags":
		if c.operation = opTags; c.reference != "list" {
			return none, errNoSuchCall
		}
	default:
		return none, errNoSuchCall
	}
	return c, nil
}

// cutLast cuts a path at its last slash, if there is one.
func cutLast(path string) (before, after string, found bool) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:], true
	}
	return "", path, false
}

func hidesSeparators(u *url.URL) bool {
	if u.RawPath == "" { // it was written as one would write it
		return strings.IndexByte(u.Path, '%') >= 0 || strings.IndexByte(u.Path, '\\') >= 0
	}
	escaped := strings.ToLower(u.EscapedPath())
	return strings.Contains(escaped, "%2f") || strings.Contains(escaped, "%25") || strings.Contains(escaped, "%5c")
}
