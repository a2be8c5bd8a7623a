package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	randv2 "math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// killRounds is how often the gate is killed.
const killRounds = 100

// TestKillAtRandomPoints kills the gate a hundred times at moments that a seed
// decides, while clients pull through it, on one data folder. No client ever has
// a whole body of other bytes; every gate starts on what the last one left; and
// at the end nothing half-written is there. TRUSTGATE_KILL_SEED repeats a run.
func TestKillAtRandomPoints(t *testing.T) {
	needRoot(t)
	seed := killSeed(t)
	t.Logf("TRUSTGATE_KILL_SEED=%d", seed)
	dice := randv2.New(randv2.NewPCG(seed, 0))

	const images = 4
	var list []image
	for i := range images {
		of, _ := big(t, "observed/kill"+strconv.Itoa(i), 1<<20)
		list = append(list, of)
	}
	g := startGate(t, gateOptions{Serve: "1s", Block: "1s"})
	for round := range killRounds {
		var clients sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range 2 {
			of := list[dice.IntN(images)]
			clients.Go(func() {
				for ctx.Err() == nil {
					pullWhole(ctx, t, g, of)
				}
			})
		}
		// From before the first answer to some way into the pulls.
		time.Sleep(time.Duration(dice.Int64N(int64(60 * time.Millisecond))))
		g.kill()
		cancel()
		clients.Wait()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		if round%10 == 0 {
			// What is lost must be fetched again, not only what nobody asks for.
			g.lose(t, dice)
		}
		g.start(t)
		of := list[dice.IntN(images)]
		if round%5 == 0 && !pullWhole(t.Context(), t, g, of) {
			t.Fatalf("after round %d, %s is not served whole", round, of)
		}
	}
	for _, of := range list {
		if !pullWhole(t.Context(), t, g, of) {
			t.Errorf("%s is not served whole", of)
		}
	}
	eventually(t, 10*time.Second, "nothing half-written is left", func() (bool, string) {
		left := g.leftovers(t)
		return len(left) == 0, joined(left)
	})
}

func killSeed(t *testing.T) uint64 {
	t.Helper()
	if given := os.Getenv("TRUSTGATE_KILL_SEED"); given != "" {
		seed, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return seed
	}
	var raw [8]byte
	rand.Read(raw[:])
	return binary.NativeEndian.Uint64(raw[:])
}

// pullWhole pulls an image as a client that believes nothing, and says whether
// it got all of it. A whole answer with other bytes fails the test.
func pullWhole(ctx context.Context, t *testing.T, g *gate, of image) bool {
	t.Helper()
	raw, ok := fetch(ctx, t, g.url(of, "manifests", of.tag), of.digest)
	if !ok {
		return false
	}
	for _, d := range parseManifest(t, raw).children() {
		if _, ok := fetch(ctx, t, g.url(of, "blobs", d.Digest), d.Digest); !ok {
			return false
		}
	}
	return true
}

func fetch(ctx context.Context, t *testing.T, url, digest string) ([]byte, bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
		return nil, false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, false
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := io.Copy(&body, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return body.Bytes(), false
	}
	if digestOf(body.Bytes()) != digest {
		t.Errorf("WRONG BYTES: %s is %d bytes that hash to %s", url, body.Len(), digestOf(body.Bytes()))
		return nil, false
	}
	return body.Bytes(), true
}

// lose empties one file of the cache and cuts another short, as a crash of the
// machine may.
func (g *gate) lose(t *testing.T, dice *randv2.Rand) {
	t.Helper()
	blobs := g.blobs(t)
	for _, keep := range []int64{0, 1} {
		if len(blobs) == 0 {
			return
		}
		path := blobs[dice.IntN(len(blobs))]
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()/2*keep); err != nil {
			t.Fatal(err)
		}
	}
}
