package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/policy"
)

// Exceptions come from the configuration, its data and elsewhere. Each has an id,
// which stays for as long as it says the same, and which decisions name.
func TestExceptionsOfAllOrigins(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"exceptions.yaml": "exceptions:\n  - {code: signature.missing, repository: 'elsewhere/**', owner: ops, reason: because, expires: 2026-07-01}\n",
		"changed.yaml":    "exceptions:\n  - {code: signature.missing, repository: 'elsewhere/**', owner: ops, reason: because, expires: 2026-07-02}\n",
	})
	ends := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	recorded := policy.Exception{ID: "ex-one", Code: "signature.missing", Repository: "**", Owner: "ops", Reason: "key rotation", Expires: ends}
	load := func(file string) *policy.Engine {
		return mustLoad(t, policy.Options{Builtin: true, Data: []string{dir + "/" + file}, Exceptions: []policy.Exception{recorded}})
	}
	engine := load("exceptions.yaml")
	all := engine.Exceptions()
	if len(all) != 2 || !strings.HasPrefix(all[0].ID, "cfg-") || all[0].Repository != "elsewhere/**" || !all[0].Expires.Equal(ends) || all[1] != recorded {
		t.Fatalf("the exceptions are %+v", all)
	}
	if again := load("exceptions.yaml").Exceptions(); again[0] != all[0] {
		t.Errorf("loaded again it is %+v", again[0])
	}
	if changed := load("changed.yaml"); changed.Exceptions()[0].ID == all[0].ID || changed.Revision() == engine.Revision() {
		t.Errorf("with another end it is still %s, of %s", all[0].ID, engine.Revision())
	}
	unsigned := trusted()
	unsigned.Signatures = nil
	d := decide(t, engine, unsigned)
	if d.Action != policy.Serve || len(d.Reasons) != 1 || d.Reasons[0].Exception != "ex-one" {
		t.Errorf("the decision is %+v", d)
	}
	for at, want := range map[time.Time]string{
		ends: policy.Expired, ends.Add(-time.Second): policy.Expiring, ends.AddDate(0, 0, -7): policy.Expiring, ends.AddDate(0, 0, -8): policy.Standing,
	} {
		if got := recorded.State(at); got != want {
			t.Errorf("at %s it is %s, not %s", at, got, want)
		}
	}
}

func TestCheckCode(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true})
	for code, says := range map[string]string{
		"signature.missing": "", "signature.mising": "did you mean signature.missing?", "something else entirely": "there is build.",
		"policy.malformed": "no loaded rule has the code",
	} {
		err := engine.CheckCode(code)
		if (says == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", code, err, says)
		}
	}
}
