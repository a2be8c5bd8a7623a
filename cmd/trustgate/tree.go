package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/policy"
)

// tree draws lines below each other with the branches of a tree before them.
type tree struct {
	palette
	root  branch
	stack []*branch
}

type branch struct {
	text string
	subs []*branch
}

func (t *tree) top() *branch {
	if len(t.stack) == 0 {
		return &t.root
	}
	return t.stack[len(t.stack)-1]
}

// leaf adds a line; open also makes what follows part of it until close.
func (t *tree) leaf(text string) *branch {
	b := &branch{text: text}
	t.top().subs = append(t.top().subs, b)
	return b
}
func (t *tree) open(text string) { t.stack = append(t.stack, t.leaf(text)) }
func (t *tree) close()           { t.stack = t.stack[:len(t.stack)-1] }

func (t *tree) String() string {
	var b strings.Builder
	var draw func(of *branch, indent string)
	draw = func(of *branch, indent string) {
		for i, sub := range of.subs {
			joint, below := "├─ ", "│  "
			if i == len(of.subs)-1 {
				joint, below = "└─ ", "   "
			}
			b.WriteString(indent + joint + sub.text + "\n")
			draw(sub, indent+below)
		}
	}
	draw(&t.root, "")
	return b.String()
}

// image adds everything about one image.
func (t *tree) image(r *api.Image) {
	if in := r.Input; in != nil {
		t.signatures(in)
		t.build(&in.Build)
		t.source(&in.Source)
		t.parents(in)
		if len(in.Errors) > 0 {
			t.open(t.red("could not be had"))
			for _, e := range in.Errors {
				t.leaf(plain(e.Collector + ": " + e.Message))
			}
			t.close()
		}
	}
	t.reasons(r.Verdict.Reasons)
}

func (t *tree) signatures(in *policy.Input) {
	if len(in.Signatures) == 0 {
		t.leaf("signatures: " + t.red("none"))
		return
	}
	t.open("signatures")
	defer t.close()
	for _, s := range in.Signatures {
		t.leaf(t.signature(s))
	}
}

// signature says who made it for what, or why it does not count, and where it is.
func (p palette) signature(s policy.Signature) string {
	fits := s.ReferenceMatches == nil || *s.ReferenceMatches
	text := p.mark(s.Verified && fits) + " " + s.Kind
	if s.Signer != nil {
		text += " by " + p.bold(plain(s.Signer.Name))
	}
	if s.Reference != "" {
		text += " for " + plain(s.Reference)
	}
	if s.Verified && !fits {
		text += p.red(", which is another image")
	}
	if s.SignedAt != nil {
		text += p.faint(", " + s.SignedAt.Local().Format(time.DateOnly))
	}
	if s.Error != "" {
		text += ": " + p.red(plain(s.Error))
	}
	if s.Inherited {
		text += p.faint(" [over its index]")
	}
	return text + p.faint(" "+plain(s.Location))
}

func (t *tree) build(b *policy.Build) {
	if b.BuilderID == "" && b.BuildType == "" {
		t.leaf("build: " + t.red("no provenance"))
		return
	}
	text := "build: " + t.mark(b.Verified && b.Trusted) + " " + plain(b.BuilderID)
	switch {
	case b.Signer != nil:
		text += ", says " + t.bold(plain(b.Signer.Name))
		if !b.Trusted {
			text += t.red(", who may not speak for it")
		}
	case !b.Verified:
		text += t.red(", says nobody in particular")
	}
	if b.FinishedOn != nil {
		text += t.faint(", " + b.FinishedOn.Local().Format(time.DateTime))
	}
	t.leaf(text)
}

func (t *tree) source(s *policy.Source) {
	if s.Repository == "" && s.Revision == "" {
		t.leaf("source: " + t.red("not known"))
		return
	}
	text := "source: " + t.mark(s.Verified && s.Trusted) + " " + plain(s.Repository)
	if s.Revision != "" {
		text += " at " + plain(s.Revision[:min(12, len(s.Revision))])
	}
	switch {
	case !s.Verified:
		text += t.red(fmt.Sprintf(", claimed by its %s", plain(s.Via)))
	case !s.Trusted:
		text += t.red(", which is no trusted source")
	}
	if s.URL != "" {
		text += t.faint(" " + plain(s.URL))
	}
	t.leaf(text)
}

func (t *tree) parents(in *policy.Input) {
	switch {
	case in.Image.Root:
		t.leaf("parents: " + t.green("✓") + " a root: trust ends here")
		return
	case len(in.Parents) == 0 && in.Build.Verified:
		t.leaf("parents: " + t.green("✓") + " none, says its provenance")
		return
	case len(in.Parents) == 0:
		t.leaf("parents: " + t.red("not known"))
		return
	}
	t.open("parents")
	defer t.close()
	for _, p := range in.Parents {
		for len(t.stack) > 0 && p.Depth <= t.depth() {
			t.close()
		}
		action := policy.Block
		if p.Verdict != nil {
			action = p.Verdict.Action
		}
		text := t.mark(action != policy.Block && p.Error == "") + " " + t.bold(plain(p.Reference)) +
			" " + t.action(action, 0) + t.faint(fmt.Sprintf(" (%s, %s stage)", p.Known, p.Stage))
		if p.Root {
			text += t.green(" root")
		}
		if p.Error != "" {
			text += ": " + t.red(plain(p.Error))
		}
		t.open(text)
		if p.Verdict != nil {
			for _, r := range p.Verdict.Reasons {
				t.leaf(t.reason(r))
			}
		}
	}
	for t.depth() > 0 {
		t.close()
	}
}

// depth is how many parents are open below the line "parents".
func (t *tree) depth() int {
	for i, b := range t.stack {
		if b.text == "parents" {
			return len(t.stack) - 1 - i
		}
	}
	return 0
}

func (t *tree) reasons(reasons []policy.Reason) {
	if len(reasons) == 0 {
		t.leaf("verdict: " + t.green("no rule objects"))
		return
	}
	t.open("verdict")
	defer t.close()
	for _, r := range reasons {
		t.open(t.reason(r))
		if r.Solution != "" && r.Effect != policy.Serve {
			t.leaf("to do: " + plain(r.Solution))
		}
		t.close()
	}
}

func (t *tree) reason(r policy.Reason) string {
	code := r.Code
	switch r.Effect {
	case policy.Block:
		code = t.red(code)
	case policy.Annotate:
		code = t.yellow(code)
	}
	text := code + ": " + plain(r.Msg)
	if r.Because != "" {
		because := plain(r.Because)
		if r.Exception != "" {
			because += " (" + plain(r.Exception) + ")"
		}
		text += t.faint(" [" + because + "]")
	}
	return text
}
