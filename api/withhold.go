package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// maxAsked bounds the repositories that one answer makes the gate ask about.
const maxAsked = 16

// withhold takes out of the report what the client may not read. Anybody who can
// push an image can name any other one as its parent, and the gate follows that
// with its own credentials: what it finds there is for those who may pull it.
// That there is such a parent, and whether it passes, is part of the verdict.
func (h HTTP) withhold(r *http.Request, pulled oci.Reference, image *Image) {
	may := map[string]bool{}
	learns := func(p policy.Parent) bool {
		name, _, _ := strings.Cut(p.Reference, "@") // the digest may be shortened
		ref, err := oci.ParseReference(name)
		if err != nil {
			return false
		}
		known, asked := may[ref.Name()]
		if !asked && len(may) < maxAsked {
			known = h.Access.MayLearn(r, pulled, ref.WithDigest(p.Digest))
			may[ref.Name()] = known
		}
		return known
	}
	for _, one := range append([]*Image{image}, image.Images...) {
		if one.Input != nil {
			one.Input.Parents = withheld(one.Input.Parents, learns)
		}
	}
}

// withheld is the list without what is above a parent of which nothing may be
// learned, and with no more of that one than the image itself says.
func withheld(parents []policy.Parent, learns func(policy.Parent) bool) []policy.Parent {
	var hidden []string
	kept := parents[:0]
	for _, p := range parents {
		above := p.Path[:max(0, len(p.Path)-1)]
		if slices.ContainsFunc(above, func(name string) bool { return slices.Contains(hidden, name) }) {
			continue
		}
		if p.Digest != "" && !learns(p) {
			hidden = append(hidden, p.Reference)
			p.Digest, p.Build, p.Source = "", nil, nil
			if p.Verdict != nil {
				p.Verdict = &policy.ParentVerdict{Action: p.Verdict.Action, Reasons: []policy.Reason{}}
			}
			p.Error = "you may not read this image; log in to the gate as somebody who may"
		}
		kept = append(kept, p)
	}
	return kept
}
