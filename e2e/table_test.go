package e2e

import (
	"fmt"
	"regexp"
	"strings"
)

// row is what one client shows a person.
type row struct{ client, served, annotated, blocked string }

var (
	digests     = regexp.MustCompile(`sha256:([0-9a-f]{6})[0-9a-f]{58}`)
	clock       = regexp.MustCompile(`(time=)?"?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d[^ "]*"? ?`)
	colours     = regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]")
	interesting = regexp.MustCompile(`(?i)error|warn|denied|forbidden|fatal|blocked|trustgate`)
)

// shown is what of a client's output a person would call the result: the first
// lines that warn or complain, or that there are none, with the addresses and
// digests of this run made readable.
func shown(g *gate, seen outcome, of image) string {
	out := colours.ReplaceAllString(seen.output, "")
	out = strings.NewReplacer(g.addr, "gate:5000", of.registry.addr, of.registry.host).Replace(out)
	out = clock.ReplaceAllString(out, "")
	out = digests.ReplaceAllString(out, "sha256:$1…")
	var lines []string
	for line := range strings.FieldsFuncSeq(out, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "DEPRECATION") {
			continue // of the machine's cgroups, say; it has nothing to do with the pull
		}
		if interesting.MatchString(line) && (len(lines) == 0 || lines[len(lines)-1] != line) {
			lines = append(lines, line)
		}
	}
	if n := len(lines); n > 2 {
		lines = append(lines[:2], fmt.Sprintf("(and %d more lines)", n-2))
	}
	if len(lines) > 0 {
		for i := range lines {
			lines[i] = brief(lines[i])
		}
		return strings.Join(lines, "\n")
	}
	if seen.err == nil {
		return "pulled, nothing more"
	}
	return strings.TrimSpace(out)
}

// longest is as much of a line as a table has room for, in bytes.
const longest = 240

func brief(line string) string {
	if len(line) <= longest {
		return line
	}
	return strings.ToValidUTF8(line[:longest], "") + " […]"
}

// table is the rows in Markdown.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| client | served | annotated | blocked |\n| --- | --- | --- | --- |\n")
	for _, r := range rows {
		for _, text := range []string{r.client, r.served, r.annotated, r.blocked} {
			text = strings.ReplaceAll(text, "|", `\|`)
			b.WriteString("| " + strings.ReplaceAll(text, "\n", "<br>") + " ")
		}
		b.WriteString("|\n")
	}
	return b.String()
}
