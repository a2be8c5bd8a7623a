package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	randv2 "math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	mebi = 1 << 20

	// The bound that docs/operations.md states on the memory of the gate, as
	// the kernel counts it (VmHWM): a base for the program, its policy and its
	// tables, and so much for each connection, which has a stack or two, its
	// buffers, and 32 KiB to copy through while a blob is on its way. No blob is
	// in it.
	memoryBase          = 160 * mebi
	memoryPerConnection = 64 << 10
)

// TestColdStart has two thousand clients start the same image at once, on a gate
// that has never seen it: a node pool after a rollout. The upstream is asked
// once for each thing, every client gets every byte, and the gate stays within
// its memory.
func TestColdStart(t *testing.T) {
	needRoot(t)
	const clients = 2000
	of, content := pushRaw(t, the.apps, "observed/cold", mebi, mebi, mebi)
	upstream := startFaulty(t, the.apps)
	g := startGate(t, gateOptions{Upstream: upstream.url(), Serve: "10m"})

	var ready, done sync.WaitGroup
	start := make(chan struct{})
	failures := make(chan error, clients)
	ready.Add(clients)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for range clients {
		done.Go(func() {
			transport := &http.Transport{} // a machine of its own has connections of its own
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			ready.Done()
			<-start
			if err := coldPull(ctx, client, g, of, content); err != nil {
				failures <- err
			}
		})
	}
	ready.Wait()
	began := time.Now()
	close(start)
	done.Wait()
	took := time.Since(began)
	close(failures)
	count := 0
	for err := range failures {
		if count++; count <= 5 {
			t.Error(err)
		}
	}
	if count > 0 {
		t.Errorf("%d of %d clients failed", count, clients)
	}
	repository := "/v2/" + of.repo
	if n := upstream.count(http.MethodGet, repository+"/manifests/"+of.tag) + upstream.count(http.MethodGet, repository+"/manifests/"+of.digest); n != 1 {
		t.Errorf("the upstream was asked %d times for the manifest", n)
	}
	for digest := range content {
		if digest != of.digest {
			if n := upstream.count(http.MethodGet, repository+"/blobs/"+digest); n != 1 {
				t.Errorf("the upstream was asked %d times for %s", n, digest)
			}
		}
	}
	peak, bound := g.peakMemory(t), int64(memoryBase+clients*memoryPerConnection)
	if peak > bound {
		t.Errorf("the gate used %d MiB for %d clients, more than %d MiB", peak/mebi, clients, bound/mebi)
	}
	t.Logf("%d clients in %.1f s, %d MiB in memory, %d requests to the upstream", clients, took.Seconds(), peak/mebi, upstream.hits.Load())
}

// TestLargeBlob pulls a layer that is larger than the memory of the gate may
// be.
func TestLargeBlob(t *testing.T) {
	needRoot(t)
	of, content := pushRaw(t, the.apps, "observed/large", 384*mebi)
	g := startGate(t, gateOptions{Serve: "10m"})
	for _, temperature := range []string{"cold", "warm"} {
		var clients sync.WaitGroup
		for range 2 {
			clients.Go(func() {
				if err := coldPull(t.Context(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, g, of, content); err != nil {
					t.Errorf("%s: %v", temperature, err)
				}
			})
		}
		clients.Wait()
	}
	peak := g.peakMemory(t)
	if peak > memoryBase+2*memoryPerConnection {
		t.Errorf("the gate used %d MiB, more than %d MiB", peak/mebi, memoryBase/mebi)
	}
	t.Logf("%d MiB in memory for a layer of 384 MiB", peak/mebi)
}

// coldPull is what a client does, with every byte compared on the way.
func coldPull(ctx context.Context, client *http.Client, g *gate, of image, content map[string][]byte) error {
	if err := compare(ctx, client, g.url(of, "manifests", of.tag), content[of.digest]); err != nil {
		return err
	}
	for digest, want := range content {
		if digest == of.digest {
			continue
		}
		if err := compare(ctx, client, g.url(of, "blobs", digest), want); err != nil {
			return err
		}
	}
	return nil
}

func compare(ctx context.Context, client *http.Client, url string, want []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("%s: %s %s", url, resp.Status, body)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > len(want) || !bytes.Equal(buf[:n], want[:n]) {
			return fmt.Errorf("%s: WRONG BYTES", url)
		}
		want = want[n:]
		if err == io.EOF && len(want) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %d bytes are missing: %w", url, len(want), err)
		}
	}
}

// pushRaw pushes an image of layers of noise. content is everything in it, by
// digest.
func pushRaw(t *testing.T, to *registry, repo string, layers ...int) (of image, content map[string][]byte) {
	t.Helper()
	content = map[string][]byte{}
	var m manifest
	add := func(raw []byte, mediaType string) descriptor {
		d := descriptor{MediaType: mediaType, Digest: digestOf(raw), Size: int64(len(raw))}
		content[d.Digest] = raw
		resp := send(t, http.MethodPost, "http://"+to.addr+"/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
		location := resp.Header.Get("Location")
		if strings.HasPrefix(location, "/") {
			location = "http://" + to.addr + location
		}
		send(t, http.MethodPut, location+"&digest="+d.Digest, "application/octet-stream", raw, http.StatusCreated)
		return d
	}
	m.MediaType = "application/vnd.oci.image.manifest.v1+json"
	var diffIDs []string
	for i, size := range layers {
		raw := make([]byte, size)
		randv2.NewChaCha8([32]byte{byte(i), byte(size >> 20), byte(size >> 28)}).Read(raw)
		d := add(raw, "application/vnd.oci.image.layer.v1.tar")
		m.Layers = append(m.Layers, d)
		diffIDs = append(diffIDs, d.Digest)
	}
	config, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	if err != nil {
		t.Fatal(err)
	}
	described := add(config, "application/vnd.oci.image.config.v1+json")
	m.Config = &described
	raw, err := json.Marshal(struct {
		SchemaVersion int `json:"schemaVersion"`
		manifest
	}{2, m})
	if err != nil {
		t.Fatal(err)
	}
	of = image{registry: to, repo: repo, tag: "1", digest: digestOf(raw)}
	content[of.digest] = raw
	send(t, http.MethodPut, "http://"+to.addr+"/v2/"+repo+"/manifests/"+of.tag, m.MediaType, raw, http.StatusCreated)
	return of, content
}

func send(t *testing.T, method, url, contentType string, body []byte, want int) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		raw, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s %s", method, url, resp.Status, raw)
	}
	return resp
}

// peakMemory is the most that the gate has had in memory.
func (g *gate) peakMemory(t *testing.T) int64 {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(g.cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatal("the kernel does not say how much memory the gate used")
	return 0
}
