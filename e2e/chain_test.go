package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestDeepestBaseLosesItsSignature builds app FROM framework FROM runtime FROM
// base, each trusted for itself, and takes only the base's signature away.
func TestDeepestBaseLosesItsSignature(t *testing.T) {
	needRoot(t)
	base := trusted(t, the.bases, "chain/base", fromScratch(t))

	runtime := the.build(t, the.apps, "chain/runtime", from(base))
	the.signCosign(t, runtime, the.legacy())
	the.attest(t, runtime, the.provenance(t, runtime), the.legacy())
	framework := the.build(t, the.apps, "chain/framework", from(runtime))
	the.signCosign(t, framework, the.bundle())
	the.attest(t, framework, the.provenance(t, framework), the.bundle())
	app := trusted(t, the.apps, "chain/app", from(framework))

	const lifetime = 2 * time.Second
	// A verdict, the verdicts on parents below it and a look at the evidence
	// may each be remembered for one lifetime; the rest is for a busy machine.
	const within = 30 * time.Second
	g := startGate(t, gateOptions{Serve: lifetime.String(), Block: lifetime.String()})

	if status, message := g.pull(t, app); status != http.StatusOK {
		t.Fatalf("with every signature in place the app is blocked: %s", message)
	}
	before := g.cmd.Process.Pid

	the.unsignPGP(t, base)
	eventually(t, within, "the app is blocked for its base", func() (bool, string) {
		status, message := g.pull(t, app)
		return status == http.StatusForbidden, message
	})
	_, message := g.pull(t, app)
	rest := message
	for _, name := range []string{"chain/app", "chain/framework", "chain/runtime", "chain/base"} {
		at := strings.Index(rest, name)
		if at < 0 {
			t.Fatalf("the message does not name the path down to the base, %q is missing: %s", name, message)
		}
		rest = rest[at+len(name):]
	}
	if !strings.Contains(message, "→") {
		t.Errorf("the message draws no path: %s", message)
	}
	// A person sees the same.
	if seen := the.run(t, "crane", "digest", g.name(app)); seen.err == nil {
		t.Errorf("crane resolves the blocked app: %s", seen.output)
	}
	if seen := the.run(t, "crane", "manifest", g.name(app)); seen.err == nil || !strings.Contains(seen.output, "chain/base") {
		t.Errorf("crane does not show the path: %s", seen.output)
	}
	// The base itself is refused, and so is what lies between.
	for _, of := range []image{base, runtime, framework} {
		eventually(t, within, of.repo+" is blocked too", func() (bool, string) {
			status, message := g.pull(t, of)
			return status == http.StatusForbidden, message
		})
	}

	the.signPGP(t, base)
	signed := time.Now()
	eventually(t, within, "the app is served again", func() (bool, string) {
		status, message := g.pull(t, app)
		return status == http.StatusOK, message
	})
	t.Logf("served again %s after the base was signed; a block lives %s", time.Since(signed).Round(10*time.Millisecond), lifetime)
	if g.cmd.Process.Pid != before {
		t.Error("the gate was restarted on the way")
	}
}
