package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Exception lets the findings of one code pass for a while, in the repositories
// that a pattern matches or for one digest.
type Exception struct {
	ID         string    `json:"id"`
	Code       string    `json:"code"`
	Repository string    `json:"repository,omitempty"`
	Digest     string    `json:"digest,omitempty"`
	Owner      string    `json:"owner"`
	Reason     string    `json:"reason"`
	Expires    time.Time `json:"expires"`
}

// The states of an exception.
const (
	Standing = "standing"
	Expiring = "expiring" // within a week
	Expired  = "expired"
)

// expiringWithin is when whoever owns an exception should begin to care.
const expiringWithin = 7 * 24 * time.Hour

// State says whether the exception counts, and whether it will for long.
func (x Exception) State(now time.Time) string {
	switch left := x.Expires.Sub(now); {
	case left <= 0:
		return Expired
	case left <= expiringWithin:
		return Expiring
	}
	return Standing
}

// document is the exception as the aggregator reads it.
func (x Exception) document() map[string]any {
	d := map[string]any{
		"id": x.ID, "code": x.Code, "owner": x.Owner, "reason": x.Reason, "expires": x.Expires.UTC().Format(time.RFC3339),
	}
	if x.Repository != "" {
		d["repository"] = x.Repository
	}
	if x.Digest != "" {
		d["digest"] = x.Digest
	}
	return d
}

// addExceptions appends to those of the configuration, and gives each that has
// none an id: decisions name the exceptions that they used.
func addExceptions(config map[string]any, more []Exception) {
	list, ok := config["exceptions"].([]any)
	if !ok && config["exceptions"] != nil {
		return // which checkSettings says
	}
	for _, one := range list {
		if x, ok := one.(map[string]any); ok && x["id"] == nil {
			x["id"] = exceptionID(x)
		}
	}
	for _, x := range more {
		list = append(list, x.document())
	}
	if len(list) > 0 {
		config["exceptions"] = list
	}
}

// exceptionID is made of what the exception says, so that it stays the same for
// as long as that does.
func exceptionID(x map[string]any) string {
	raw, err := json.Marshal(x) // in the order of the keys
	if err != nil {
		panic(err) // it was read from JSON
	}
	sum := sha256.Sum256(raw)
	return "cfg-" + hex.EncodeToString(sum[:6])
}

// readExceptions reads back what has passed checkSettings.
func readExceptions(config map[string]any) []Exception {
	list, _ := config["exceptions"].([]any)
	all := make([]Exception, 0, len(list))
	for _, one := range list {
		x, _ := one.(map[string]any)
		text := func(key string) string {
			s, _ := x[key].(string)
			return s
		}
		all = append(all, Exception{
			ID: text("id"), Code: text("code"), Repository: text("repository"), Digest: text("digest"),
			Owner: text("owner"), Reason: text("reason"), Expires: readInstant(text("expires")),
		})
	}
	return all
}

// Exceptions lists those of the configuration, and those of the options behind
// them, expired ones too. Where two cover a finding, the first counts.
func (e *Engine) Exceptions() []Exception { return slices.Clone(e.exceptions) }

// CheckCode says what is wrong with the code of an exception: that no loaded rule
// has it.
func (e *Engine) CheckCode(code string) error {
	known := e.Codes()
	if slices.Contains(known, code) {
		return nil
	}
	if near := nearest(code, known); near != "" {
		return fmt.Errorf("no loaded rule has the code %q; did you mean %s?", code, near)
	}
	return fmt.Errorf("no loaded rule has the code %q; there is %s", code, strings.Join(known, ", "))
}

// Codes lists what findings of the loaded rules are called, as far as the rules
// say it.
func (e *Engine) Codes() []string {
	var codes []string
	for _, r := range e.rules {
		codes = append(codes, r.Code)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}
