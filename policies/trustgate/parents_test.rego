package trustgate.policies.parents_test

import data.trustgate.policies.parents
import data.trustgate_test.fixtures as f

denied(judged) := found if found := parents.deny with input as judged

among(list) := denied(f.with_changes({"/parents": list}))

unsigned := f.reason("signature.missing", "no signature by a named signer (found none)")

below(msg) := f.reason("parents.untrusted", msg)

test_trusted_all_the_way_down if {
	count(among([
		f.parent(["base/node:20"], "serve", []),
		f.parent(["base/node:20", "base/debian:12"], "annotate", [object.union(unsigned, {"severity": "warn", "effect": "annotate"})]),
	])) == 0
}

test_blocked_parent if {
	among([f.parent(["base/node:20"], "block", [unsigned])]) == {{
		"code": "parents.untrusted",
		"msg": "acme/app:1 → base/node:20: no signature by a named signer (found none)",
		"path": ["registry.example/acme/app:1", "registry.example/base/node:20"],
	}}
}

# Four deep, and only the deepest is at fault: that one is named.
test_deepest_cause if {
	found := among([
		f.parent(["base/node:20"], "block", [below("base/node:20 → base/debian:12: …")]),
		f.parent(["base/node:20", "base/debian:12"], "block", [below("base/debian:12 → base/rootfs:1: …")]),
		f.parent(["base/node:20", "base/debian:12", "base/rootfs:1"], "block", [unsigned]),
	])
	found == {{
		"code": "parents.untrusted",
		"msg": "acme/app:1 → base/node:20 → base/debian:12 → base/rootfs:1: no signature by a named signer (found none)",
		"path": [
			"registry.example/acme/app:1", "registry.example/base/node:20",
			"registry.example/base/debian:12", "registry.example/base/rootfs:1",
		],
	}}
}

test_every_cause_once if {
	found := among([
		f.parent(["base/node:20"], "block", [unsigned, below("…")]),
		f.parent(["base/node:20", "base/debian:12"], "block", [unsigned, f.reason("source.unknown", "no source")]),
		f.parent(["tools/gcc:14"], "serve", []),
		f.parent(["tools/gcc:14", "base/alpine:3", "base/debian:12"], "block", [unsigned, f.reason("source.unknown", "no source")]),
	])
	f.messages(found) == {
		"acme/app:1 → base/node:20: no signature by a named signer (found none)",
		"acme/app:1 → base/node:20 → base/debian:12: no signature by a named signer (found none); no source",
	}
}

test_build_stage_counts if {
	found := among([object.union(f.parent(["tools/gcc:14"], "block", [unsigned]), {"stage": "build"})])
	f.codes(found) == {"parents.untrusted"}
}

test_error if {
	p := object.union(f.parent(["base/node:20"], "serve", []), {"error": "the registry answered 500"})
	f.messages(among([p])) == {"acme/app:1 → base/node:20: the registry answered 500"}
	q := object.union(p, {"verdict": null, "root": true})
	f.messages(among([q])) == {"acme/app:1 → base/node:20: the registry answered 500"}
}

test_not_judged if {
	p := object.union(f.parent(["base/node:20"], "serve", []), {"verdict": null})
	f.messages(among([p])) == {"acme/app:1 → base/node:20: it was not judged"}
}

test_root_need_not_be_judged if {
	p := object.union(f.parent(["base/debian:12"], "serve", []), {"verdict": null, "root": true})
	count(among([p])) == 0
}

test_blocked_root if {
	p := object.union(f.parent(["base/debian:12"], "block", [f.reason("layers.foreign", "foreign")]), {"root": true})
	f.messages(among([p])) == {"acme/app:1 → base/debian:12: foreign"}
}

test_unknown_action if {
	f.messages(among([f.parent(["base/node:20"], "allow", [])])) == {"acme/app:1 → base/node:20: it is blocked"}
}

# The verdict is the one before the mode; so are the reasons that count.
test_parent_on_a_route_that_only_watches if {
	seen := object.union(unsigned, {"effect": "serve", "because": "mode audit"})
	excused := object.union(f.reason("source.unknown", "no source"), {"effect": "serve", "because": "exception by ops until 2027-01-01: …"})
	warned := {"code": "acme.old", "msg": "old", "severity": "warn", "effect": "serve", "because": "mode audit"}
	f.messages(among([f.parent(["base/node:20"], "block", [seen, excused, warned])])) == {"acme/app:1 → base/node:20: no signature by a named signer (found none)"}
}

# The tree was too large to be listed: the parent's own finding tells the rest.
test_cause_below_what_is_listed if {
	r := object.union(
		below("base/node:20 → base/debian:12: no signature by a named signer (found none)"),
		{"path": ["registry.example/base/node:20", "registry.example/base/debian:12"]},
	)
	found := among([f.parent(["base/node:20"], "block", [r])])
	found == {{
		"code": "parents.untrusted",
		"msg": "acme/app:1 → base/node:20 → base/debian:12: no signature by a named signer (found none)",
		"path": ["registry.example/acme/app:1", "registry.example/base/node:20", "registry.example/base/debian:12"],
	}}
}

test_cause_without_a_path if {
	found := among([f.parent(["base/node:20"], "block", [below("a parent is not trusted")])])
	f.messages(found) == {"acme/app:1 → base/node:20: a parent is not trusted"}
}

test_no_way_given if {
	p := object.union(f.parent(["base/node:20"], "block", [unsigned]), {"path": []})
	f.messages(among([p])) == {"acme/app:1 → base/node:20: no signature by a named signer (found none)"}
}

test_other_registry_and_digest if {
	p := object.union(f.parent(["x"], "block", [unsigned]), {"path": [
		"registry.example/acme/app:1",
		"docker.io/library/debian@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	]})
	f.messages(among([p])) == {"acme/app:1 → docker.io/library/debian@sha256:0123456789ab: no signature by a named signer (found none)"}
}

test_unknown_base if {
	f.codes(denied(f.with_changes({"/parents": [], "/build/verified": false}))) == {"parents.unknown"}
}

test_from_scratch_with_provenance if {
	count(denied(f.with_changes({"/parents": []}))) == 0
}

test_no_layers if {
	count(denied(f.with_changes({"/parents": [], "/build/verified": false, "/image/layers": []}))) == 0
}

test_root if {
	count(denied(f.with_changes({"/parents": [], "/build/verified": false, "/image/root": true}))) == 0
}

test_artifacts_have_no_parents if {
	count(denied(f.with_changes({"/parents": [], "/build/verified": false, "/image/kind": "artifact"}))) == 0
}

# It does not come to this; if it did, it would block.
test_no_cause_found if {
	found := among([f.parent(["base/node:20"], "block", [unsigned])]) with parents.causes as set()
	found == {{"code": "parents.untrusted", "msg": "a parent is not trusted"}}
}
