package main

import (
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
)

// What an exception in the configuration must have, one in the ledger must have
// too, and its end is one that somebody means.
func TestNewException(t *testing.T) {
	now := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	good := config.Exception{Code: "signature.missing", Repository: "registry.example/acme/*", Owner: "ops", Reason: "until we sign it", Expires: "2027-06-30"}
	for name, tc := range map[string]struct {
		change func(*config.Exception)
		long   bool
		says   string // "" when it is taken
	}{
		"complete":                {func(*config.Exception) {}, false, ""},
		"without a reason":        {func(e *config.Exception) { e.Reason = " " }, false, "needs code, owner, reason and expires"},
		"without an owner":        {func(e *config.Exception) { e.Owner = "" }, false, "needs code, owner, reason and expires"},
		"for nothing":             {func(e *config.Exception) { e.Repository = "" }, false, "for a repository or for a digest"},
		"for a digest that is no": {func(e *config.Exception) { e.Repository, e.Digest = "", "sha256:00" }, false, "--digest: "},
		"for a broken pattern":    {func(e *config.Exception) { e.Repository = "a/[b" }, false, `--repository: "a/[b" is not a pattern`},
		"until some day":          {func(e *config.Exception) { e.Expires = "soon" }, false, `--expires: "soon" is not a date`},
		"until yesterday":         {func(e *config.Exception) { e.Expires = "2027-01-30" }, false, "2027-01-30 is in the past"},
		"until tonight":           {func(e *config.Exception) { e.Expires = "2027-01-31" }, false, ""},
		"for ever":                {func(e *config.Exception) { e.Expires = "2999-12-31" }, true, `--expires: "2999-12-31" lies outside of the years 1970 to 2200`},
		"up to a year too far":    {func(e *config.Exception) { e.Expires = "2200-12-31" }, true, `--expires: "2200-12-31" lies outside of the years 1970 to 2200`},
		"until the last that is":  {func(e *config.Exception) { e.Expires = "2200-12-30" }, true, ""},
		"for two years":           {func(e *config.Exception) { e.Expires = "2029-01-31" }, false, "more than a year ahead; say --long"},
		"for two years, meant":    {func(e *config.Exception) { e.Expires = "2029-01-31" }, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := good
			tc.change(&e)
			made, err := newException(e, now, tc.long)
			switch {
			case tc.says == "" && (err != nil || !strings.HasPrefix(made.ID, "ex-") || made.AddedBy == "" || !made.Expires.After(now)):
				t.Errorf("%+v, %v", made, err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("%v does not say %q", err, tc.says)
			}
		})
	}
}
