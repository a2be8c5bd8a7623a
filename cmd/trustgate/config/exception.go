package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gobwas/glob"

	"github.com/trustgate/trustgate/oci"
)

// Exception lets a finding pass for a while.
type Exception struct {
	Code       string `yaml:"code"`
	Repository string `yaml:"repository"`
	Digest     string `yaml:"digest"`
	Owner      string `yaml:"owner"`
	Reason     string `yaml:"reason"`
	Expires    string `yaml:"expires"` // a day, or an instant in RFC 3339
}

// Mistake is what is wrong with one key of an exception, or with all of it
// where Key is "".
type Mistake struct {
	Key string
	Err error
}

// Mistakes says what is wrong with the exception, whoever wrote it.
func (e Exception) Mistakes() []Mistake {
	for _, text := range []string{e.Code, e.Owner, e.Reason, e.Expires} {
		if strings.TrimSpace(text) == "" {
			return []Mistake{{Err: errors.New("an exception needs code, owner, reason and expires")}}
		}
	}
	var found []Mistake
	if (e.Repository == "") == (e.Digest == "") {
		found = append(found, Mistake{Err: errors.New("an exception is for a repository or for a digest")})
	}
	if _, err := glob.Compile(e.Repository, '/'); err != nil {
		found = append(found, Mistake{"repository", fmt.Errorf("%q is not a pattern", e.Repository)})
	}
	if e.Digest != "" {
		if _, err := oci.ParseDigest(e.Digest); err != nil {
			found = append(found, Mistake{"digest", err})
		}
	}
	if _, err := ParseExpiry(e.Expires); err != nil {
		found = append(found, Mistake{"expires", err})
	}
	return found
}

// ParseExpiry reads the end of an exception: the end of a day in UTC, or an
// instant. It takes only the years with which rules can reckon.
func ParseExpiry(s string) (time.Time, error) {
	ends, err := time.Parse(time.DateOnly, s)
	if err == nil {
		ends = ends.AddDate(0, 0, 1)
	} else if ends, err = time.Parse(time.RFC3339, s); err != nil {
		return time.Time{}, fmt.Errorf("%q is not a date; write it as 2027-01-31 or 2027-01-31T12:00:00Z", s)
	}
	if year := ends.UTC().Year(); year < 1970 || year > 2200 {
		return time.Time{}, fmt.Errorf("%q lies outside of the years 1970 to 2200; write a date within them", s)
	}
	return ends, nil
}
