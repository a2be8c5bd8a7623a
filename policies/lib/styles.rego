# What adapters need that make findings of other tools' rules, and what such rules
# take for the input.
package trustgate.lib.styles

import data.trustgate.lib

# A finding of conftest's: a text, or an object with msg. What else is in it is for
# conftest's own output.
coded(entry, code) := {"code": code, "msg": entry} if {
	is_string(entry)
} else := object.union({"code": code}, object.filter(entry, {"code", "msg", "solution"})) if {
	is_object(entry)
} else := entry

# A finding of Conforma's: its code is short there, and it carries what else only its
# metadata say.
result(entry) := object.union(
	object.union(object.filter(entry, {"msg"}), short(entry)),
	{"carried": object.union(severity(entry), effective(entry))},
) if {
	is_object(entry)
} else := entry

# Conforma writes the whole package or its last part.
short(entry) := {"code": concat(".", array.slice(parts, max([count(parts) - 2, 0]), count(parts)))} if {
	is_string(entry.code)
	parts := split(entry.code, ".")
} else := object.filter(entry, {"code"})

severity(entry) := {"severity": severities[entry.severity]} if {
	severities[entry.severity]
} else := {}

severities := {"failure": "deny", "warning": "warn"}

# What is no time does not put a finding off.
effective(entry) := {"effective_on": entry.effective_on} if {
	lib.moment(entry.effective_on)
} else := {}

# The input of “ec validate image”, as far as it is known here. What is not verified is
# not in it: Conforma shows its rules nothing else.
#
# https://conforma.dev/docs/cli/policy_input.html
conforma := {
	"attestations": [{"statement": statement(a), "signatures": [{"signer": a.signer.name}]} |
		some a in lib.vouched(input.attestations)
	],
	"image": object.union(
		{
			"ref": concat("@", [lib.name, input.image.digest]),
			"config": {"Labels": input.image.labels},
			"signatures": [{"signer": s.signer.name} |
				some s in lib.vouched(input.signatures)
				object.get(s, "reference_matches", null) != false
			],
		},
		parent,
	),
}

# The image that the final stage was built on.
parent := {"parent": {"ref": concat("@", [bare(bases[0].reference), bases[0].digest])}} if {
	count(bases) == 1
} else := {}

bases := [p |
	some p in input.parents
	p.depth == 1
	p.stage == "final"
	p.digest != ""
]

bare(reference) := regex.replace(reference, `(:[^:/@]+)?(@.*)?$`, "")

# The statement of an attestation, without the version and the names of subjects, which
# are not kept.
statement(a) := {
	"predicateType": a.predicate_type,
	"predicate": a.predicate,
	"subject": [{"digest": {algorithm: hex}} | [algorithm, hex] := split(a.subject, ":")],
}
