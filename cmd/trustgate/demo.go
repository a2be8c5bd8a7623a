package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/cmd/trustgate/demo"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

func newDemo() *cobra.Command {
	c := &cobra.Command{
		Use:   "demo",
		Short: "See the gate work, with images made on the spot",
		Long: `Start a real registry in this process, fill it with small images that are signed
and trusted all the way down, unsigned, signed on an untrusted parent, and
tampered with, put the gate in front, and pull each one through it.

It needs no network and nothing else on the machine. The gate stays up to be tried
out until it is stopped; with --once it ends after the pulls, with exit code 1 if
a verdict is not the expected one.`,
		Example: `  trustgate demo
  trustgate demo --once -o json`,
		Args: cobra.NoArgs,
	}
	once := c.Flags().Bool("once", false, "end after the pulls")
	listen := c.Flags().String("listen", "127.0.0.1:5000", "where the gate listens; another port is taken if this one is in use")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		d, err := openDemo(c.Context(), *listen, c.ErrOrStderr())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.close()) }()
		results, err := d.pullAll(c.Context())
		if err != nil && c.Context().Err() != nil {
			return errors.New("stopped before every image was pulled")
		}
		if err != nil {
			return err
		}
		if out.json() {
			err = writeJSON(c.OutOrStdout(), results)
		} else {
			err = d.show(c.OutOrStdout(), results)
		}
		if err != nil {
			return err
		}
		for _, r := range results {
			if r.Action != r.Expected {
				return fmt.Errorf("%s: expected %s, got %s", r.Reference, r.Expected, r.Action)
			}
		}
		if *once {
			return nil
		}
		d.invite(c.ErrOrStderr())
		select {
		case <-c.Context().Done():
			return nil
		case err := <-d.served:
			return err
		}
	}
	return c
}

// demonstration is the scene with the gate in front of it.
type demonstration struct {
	scene   *demo.Scene
	service *service
	address string
	stop    context.CancelFunc
	served  chan error
}

func openDemo(ctx context.Context, listen string, logTo io.Writer) (d *demonstration, err error) {
	public, err := net.Listen("tcp", listen)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(listen)
		if splitErr != nil {
			return nil, fmt.Errorf("listening for pulls: %w", err)
		}
		if public, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return nil, fmt.Errorf("listening for pulls: %w", err)
		}
	}
	d = &demonstration{address: public.Addr().String(), served: make(chan error, 1)}
	defer func() {
		if err != nil {
			public.Close()
			err = errors.Join(err, d.close())
		}
	}()
	if d.scene, err = demo.Set(ctx, d.address, ""); err != nil {
		return d, err
	}
	// The demonstration is the same whatever the environment says.
	cfg, err := config.Load(d.scene.Config, nil)
	if err != nil {
		return d, err
	}
	if d.service, err = assemble(ctx, cfg, logTo); err != nil {
		return d, err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	go func() { d.served <- d.service.serve(serving, public, nil, nil) }()
	return d, nil
}

func (d *demonstration) close() error {
	var failures []error
	if d.stop != nil {
		d.stop()
		select {
		case err := <-d.served:
			failures = append(failures, err)
		case <-time.After(closing + time.Second):
		}
	}
	if d.service != nil {
		failures = append(failures, d.service.close())
	}
	if d.scene != nil {
		failures = append(failures, d.scene.Close())
	}
	return errors.Join(failures...)
}

// pulled is what came of one pull.
type pulled struct {
	Reference string        `json:"reference"`
	Expected  policy.Action `json:"expected"`
	Action    policy.Action `json:"action"`
	Reasons   []why         `json:"reasons"`
	Digest    digest.Digest `json:"digest"`

	decision string
	story    string
	seen     string // what the client says
}

type why struct {
	Code string `json:"code"`
	Msg  string `json:"msg"`
}

func (d *demonstration) pullAll(ctx context.Context) ([]pulled, error) {
	var results []pulled
	for _, p := range d.scene.Pulls {
		r, err := d.pull(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("pulling %s: %w", p.Reference, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// pull fetches an image through the gate, all of it, over HTTP, and looks up in
// the ledger what the gate decided.
func (d *demonstration) pull(ctx context.Context, p demo.Pull) (pulled, error) {
	r := pulled{Reference: p.Reference, Expected: p.Expected, Reasons: []why{}, story: p.Story}
	ref, err := oci.ParseReference(p.Reference)
	if err != nil {
		return r, err
	}
	through, err := name.NewTag(d.address+"/"+ref.Repository()+":"+ref.Tag(), name.Insecure)
	if err != nil {
		return r, err
	}
	headers := &firstVerdict{}
	err = fetch(through, remote.WithContext(ctx), remote.WithTransport(headers))
	var refused *transport.Error
	if err != nil && !(errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden && headers.decision != "") {
		return r, err
	}
	if err != nil {
		r.seen = refused.Error()
	}
	r.decision = headers.decision
	judged, err := lookUp(ctx, d.service.ledger, r.decision)
	if err != nil {
		return r, err
	}
	r.Action, r.Digest = judged.Action, judged.Digest
	if served := refused == nil; served == (r.Action == policy.Block) {
		return r, fmt.Errorf("decision %s is %s, but the pull was not treated so", r.decision, r.Action)
	}
	for _, reason := range judged.Reasons {
		r.Reasons = append(r.Reasons, why{reason.Code, reason.Msg})
	}
	return r, nil
}

// fetch reads all of an image; the client checks every digest.
func fetch(ref name.Reference, options ...remote.Option) error {
	image, err := remote.Image(ref, options...)
	if err != nil {
		return err
	}
	if _, err := image.RawConfigFile(); err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, content)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	return nil
}

// firstVerdict remembers the decision that the gate names in its answers.
type firstVerdict struct{ decision string }

func (t *firstVerdict) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && t.decision == "" {
		t.decision = resp.Header.Get("TrustGate-Decision-Id")
	}
	return resp, err
}

func (d *demonstration) show(w io.Writer, results []pulled) error {
	p := paint(w)
	fmt.Fprintf(w, "A registry with %d images, and the gate in front of it on %s.\n\n", len(results), p.bold(d.address))
	for _, r := range results {
		fmt.Fprintf(w, "%s %s\n", p.action(r.Action, 10), p.bold(r.Reference))
		fmt.Fprintf(w, "           %s\n", p.faint(r.story))
		for _, reason := range r.Reasons {
			fmt.Fprintf(w, "           %s: %s\n", p.yellow(reason.Code), plain(reason.Msg))
		}
		if r.Action != r.Expected {
			fmt.Fprintf(w, "           %s\n", p.red("expected "+string(r.Expected)))
		}
		fmt.Fprintln(w)
	}
	for _, r := range results {
		if r.seen != "" {
			_, err := fmt.Fprintf(w, "A client that is blocked says, for example:\n\n  %s\n", plain(r.seen))
			return err
		}
	}
	return nil
}

// invite says how to try the gate out.
func (d *demonstration) invite(w io.Writer) {
	p := paint(w)
	var blocked, served string
	for _, pull := range d.scene.Pulls {
		short := pull.Reference[strings.Index(pull.Reference, "/")+1:]
		if pull.Expected == policy.Block {
			blocked = short
		} else if pull.Expected == policy.Serve {
			served = short
		}
	}
	fmt.Fprintf(w, `
The gate stays up. Try, in another terminal:

  crane pull --insecure %[1]s/%[2]s image.tar
  skopeo inspect --tls-verify=false docker://%[1]s/%[3]s
  trustgate --config %[4]s inspect %[5]s
  trustgate --config %[4]s verdicts list

%[6]s
`, d.address, served, blocked, d.scene.Config, "registry.acme.example/"+blocked, p.faint("Press Ctrl-C to end it."))
}
