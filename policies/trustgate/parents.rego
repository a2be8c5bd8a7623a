# METADATA
# title: Parents
# description: Every image that this one was built from is trusted too, all the way down to a configured root.
# scope: package
package trustgate.policies.parents

# METADATA
# title: Trusted parents
# description: >-
#   No parent, of the final stage or of another build stage, is blocked, and each could be judged. A parent
#   counts by its verdict before the mode of its own route. The finding names the deepest cause and the way to it.
# custom:
#   code: parents.untrusted
#   solution: Mend or replace the parent at the end of the path, then build the images above it anew if its digest changes.
#   collections: [trusted-builds]
deny contains {"code": "parents.untrusted", "msg": msg, "path": path} if {
	required
	some [at, text] in {[c.at, c.text] | some c in causes}
	ways := sort([[count(c.path), c.path] | some c in causes; c.at == at; c.text == text])
	path := ways[0][1]
	msg := sprintf("%s: %s", [concat(" → ", [short(step) | some step in path]), text])
}

# Whatever the reason could not be found for is no better.
deny contains {"code": "parents.untrusted", "msg": "a parent is not trusted"} if {
	required
	count(bad) > 0
	count(causes) == 0
}

# METADATA
# title: Known parents
# description: >-
#   It is known what the image was built from. Verified provenance that lists no image says that it was built
#   from scratch; without it, layers that belong to no known image could hold anything.
# custom:
#   code: parents.unknown
#   solution: Let the build attest its provenance, name its base in the annotations org.opencontainers.image.base.*, or make this image a root.
#   collections: [trusted-builds]
deny contains {"code": "parents.unknown", "msg": msg} if {
	required
	count(input.image.layers) > 0
	count(input.parents) == 0
	not input.build.verified
	msg := "what it was built from is not known: no parent was found, and no verified provenance says that there is none"
}

required if {
	input.image.kind == "image"
	not input.image.root
}

served := {"serve", "annotate"}

passes(p) if {
	p.error == ""
	p.verdict.action in served
}

# Trust ends at a root; it need not be judged.
passes(p) if {
	p.error == ""
	p.root
	is_null(p.verdict)
}

bad contains i if {
	some i, p in input.parents
	not passes(p)
}

# Each cause once for each way to it.
causes contains {"at": path[count(path) - 1], "text": text, "path": path} if {
	some i in bad
	p := input.parents[i]
	text := own(p)
	path := way(p)
}

# What is at fault lies deeper than the parents that the input lists.
causes contains cause if {
	some i in bad
	p := input.parents[i]
	not own(p)
	not listed_below(p)
	some cause in deeper(p)
}

own(p) := p.error if {
	p.error != ""
} else := "it was not judged" if {
	is_null(p.verdict)
} else := concat("; ", sort(texts)) if {
	texts := {r.msg | some r in p.verdict.reasons; r.code != "parents.untrusted"; blocks(r)}
	count(texts) > 0
} else := "it is blocked" if {
	count(inherited(p)) == 0
}

inherited(p) := [r | some r in p.verdict.reasons; r.code == "parents.untrusted"; blocks(r)]

blocks(r) if r.effect == "block"

# Its own route only watches.
blocks(r) if {
	r.severity == "deny"
	startswith(r.because, "mode ")
}

listed_below(p) if {
	some i in bad
	below := input.parents[i]
	count(below.path) > count(p.path)
	array.slice(below.path, 0, count(p.path)) == p.path
}

deeper(p) := {cause |
	some r in inherited(p)
	rest := object.get(r, "path", [])
	path := array.concat(way(p), array.slice(rest, 1, count(rest)))
	cause := {"at": path[count(path) - 1], "text": after_path(r.msg), "path": path}
}

after_path(msg) := substring(msg, indexof(msg, ": ") + 2, -1) if {
	contains(msg, " → ")
	contains(msg, ": ")
} else := msg

# As people say it: without the image's own registry, and no digest in full.
short(step) := local if {
	not contains(step, "@")
	local := trim_prefix(step, own_registry)
} else := sprintf("%s@%s", [trim_prefix(parts[0], own_registry), substring(parts[1], 0, 19)]) if {
	parts := split(step, "@")
}

own_registry := concat("", [input.image.registry, "/"])

way(p) := p.path if {
	count(p.path) > 0
} else := [input.image.reference, p.reference]
