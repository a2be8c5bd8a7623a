package gittag

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/trustgate/trustgate/internal/reach"
)

// session is a conversation with one repository: its refs, then one pack.
//
// https://git-scm.com/docs/gitprotocol-pack
type session interface {
	AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error)
	UploadPack(context.Context, *packp.UploadPackRequest) (*packp.UploadPackResponse, error)
	Close() error
}

// open begins a conversation with the repository at u.
func (s *search) open(u string) (session, error) {
	endpoint, err := transport.NewEndpoint(u)
	if err != nil {
		return nil, err
	}
	switch endpoint.Protocol {
	case "https", "http":
		client := &http.Client{Transport: s, CheckRedirect: s.checkRedirect}
		return githttp.NewClient(client).NewUploadPackSession(endpoint, nil)
	case "git":
		return &daemon{search: s, endpoint: endpoint}, nil
	}
	return nil, fmt.Errorf("the scheme %q is not one that TrustGate speaks", endpoint.Protocol)
}

// RoundTrip implements http.RoundTripper. All that the search reads over HTTP
// passes through it.
func (s *search) RoundTrip(req *http.Request) (*http.Response, error) {
	err := s.egress.checkHost(req.URL)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, s.meter.saw(err)
	}
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return nil, s.meter.saw(err)
	}
	resp.Body = s.meter.reader(resp.Body)
	return resp, nil
}

const infoRefs = "/info/refs"

// checkRedirect follows a renamed repository on its own host, as forges
// redirect, if the new name may be asked too.
func (s *search) checkRedirect(req *http.Request, via []*http.Request) error {
	from, to := via[0].URL, req.URL
	shown := fmt.Sprintf("%s://%s%s", to.Scheme, to.Host, to.EscapedPath())
	if len(shown) > 200 {
		shown = shown[:200]
	}
	if to.Scheme != from.Scheme || reach.HostPort(to) != reach.HostPort(from) {
		return s.meter.saw(&refusal{fmt.Sprintf("it redirects to another host, %q", shown), "build from the URL where the repository is"})
	}
	path, ok := strings.CutSuffix(to.EscapedPath(), infoRefs)
	if !ok {
		return s.meter.saw(&refusal{fmt.Sprintf("it redirects to %q, which is no git repository", shown), "a login page or a mirror may stand before it"})
	}
	scheme, rest, _ := strings.Cut(s.repository, "://")
	host, _, _ := strings.Cut(rest, "/")
	moved := scheme + "://" + host + path
	repository, err := s.allowed(moved)
	if err == nil && repository != strings.TrimSuffix(strings.TrimSuffix(moved, "/"), ".git") {
		// What reads as a ref behind the repository would be asked for unseen.
		err = fmt.Errorf("%q is not the plain URL of a repository", shown)
	}
	if err != nil {
		return s.meter.saw(&refusal{fmt.Sprintf("it redirects to another repository: %v", err), "build from the URL where the repository is"})
	}
	return nil
}

// daemon is a session over git://. The library's own dials without asking.
//
// https://git-scm.com/docs/gitprotocol-pack#_git_transport
type daemon struct {
	search   *search
	endpoint *transport.Endpoint
	conn     io.ReadWriteCloser
	stop     func() bool
}

func (d *daemon) AdvertisedReferencesContext(ctx context.Context) (*packp.AdvRefs, error) {
	u := url.URL{Scheme: "git", Host: d.endpoint.Host}
	if d.endpoint.Port != 0 {
		u.Host = fmt.Sprintf("%s:%d", d.endpoint.Host, d.endpoint.Port)
	}
	conn, err := d.search.egress.dial(ctx, "tcp", reach.HostPort(&u))
	if err != nil {
		return nil, d.search.meter.saw(err)
	}
	d.stop = context.AfterFunc(ctx, func() { conn.Close() })
	d.conn = struct {
		io.ReadCloser
		io.Writer
	}{d.search.meter.reader(conn), conn}
	request := packp.GitProtoRequest{RequestCommand: transport.UploadPackServiceName, Pathname: d.endpoint.Path, Host: u.Host}
	if err := request.Encode(conn); err != nil {
		return nil, d.search.meter.saw(err)
	}
	refs := packp.NewAdvRefs()
	err = refs.Decode(d.conn)
	if errors.Is(err, packp.ErrEmptyAdvRefs) || (err == nil && refs.IsEmpty()) {
		return nil, transport.ErrEmptyRemoteRepository
	}
	if err != nil {
		return nil, err
	}
	transport.FilterUnsupportedCapabilities(refs.Capabilities)
	return refs, nil
}

func (d *daemon) UploadPack(_ context.Context, request *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if err := request.UploadRequest.Encode(d.conn); err != nil {
		return nil, d.search.meter.saw(err)
	}
	// There is nothing to negotiate: TrustGate has no objects.
	if err := pktline.NewEncoder(d.conn).EncodeString("done\n"); err != nil {
		return nil, d.search.meter.saw(err)
	}
	response := packp.NewUploadPackResponse(request)
	if err := response.Decode(d.conn); err != nil {
		return nil, err
	}
	return response, nil
}

func (d *daemon) Close() error {
	if d.conn == nil {
		return nil
	}
	d.stop()
	return d.conn.Close()
}

// fetch asks for the wanted objects, and as little beside them as the filter
// leaves where the server knows filters. Commits come without their history.
func fetch(ctx context.Context, talk session, refs *packp.AdvRefs, wants []plumbing.Hash, filter packp.Filter) (*stream, error) {
	request := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	request.Wants = wants
	set := func(c capability.Capability) bool {
		return refs.Capabilities.Supports(c) && request.Capabilities.Set(c) == nil
	}
	set(capability.NoProgress)
	if set(capability.Shallow) {
		request.Depth = packp.DepthCommits(1)
	}
	if set(capability.Filter) {
		request.Filter = filter
	}
	response, err := talk.UploadPack(ctx, request)
	if err != nil {
		return nil, err
	}
	var pack io.Reader = response
	switch {
	case request.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, response)
	case request.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, response)
	}
	return &stream{pack, response}, nil
}

// stream is a pack on its way here.
type stream struct {
	io.Reader
	response io.ReadCloser
}

// maxTail bounds what may follow a pack: its checksum and words for people.
const maxTail = 64 << 10

// drain reads what follows the pack, so that the connection can be used again.
func (s *stream) drain() {
	for _, r := range []io.Reader{s.Reader, s.response} {
		_, _ = io.CopyN(io.Discard, r, maxTail) // an error ends the connection, as without this
	}
}

func (s *stream) Close() error { return s.response.Close() }

// meter bounds what one search reads, and remembers what went wrong on the way:
// the library turns errors beneath it into text.
type meter struct {
	left  int64
	spent bool
	err   error
}

// saw remembers err if it is the first.
func (m *meter) saw(err error) error {
	if m.err == nil {
		m.err = err
	}
	return err
}

func (m *meter) reader(r io.ReadCloser) io.ReadCloser { return &meteredReader{r, m} }

type meteredReader struct {
	io.ReadCloser
	meter *meter
}

// errSpent is what readers of too much get; what people read is search.failed's.
var errSpent = errors.New("more bytes than a look-up may read")

func (r *meteredReader) Read(p []byte) (int, error) {
	if r.meter.spent {
		return 0, errSpent
	}
	n, err := r.ReadCloser.Read(p)
	if r.meter.left -= int64(n); r.meter.left < 0 {
		r.meter.spent = true
		return 0, errSpent
	}
	if err != nil && err != io.EOF {
		r.meter.saw(err)
	}
	return n, err
}
