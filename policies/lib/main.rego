# METADATA
# title: The decision
# description: >-
#   Collects the findings of every package below trustgate.policies and makes
#   one decision of them: collections, severities, exceptions, effective dates,
#   and last the mode.
# scope: package
package trustgate

import data.trustgate.lib

decision := object.union(
	{
		"action": strictest({r.effect | some r in moded}),
		"before_mode": strictest({r.effect | some r in settled}),
		"reasons": reasons,
		"annotations": annotations,
	},
	term,
)

# When an exception that was used ends, or a rule that was announced bites.
term := {"until": time.format(min(ends))} if {
	ends := {f.ends | some f in settled}
	count(ends) > 0
} else := {}

strictest(effects) := "block" if {
	"block" in effects
} else := "annotate" if {
	"annotate" in effects
} else := "serve"

# What the packages say, as they say it.
said contains {"package": name, "set": "deny", "entry": entry} if {
	some name
	some entry in data.trustgate.policies[name].deny
}

said contains {"package": name, "set": "warn", "entry": entry} if {
	some name
	some entry in data.trustgate.policies[name].warn
}

wellformed(entry) if {
	worded(entry)
}

wellformed(entry) if {
	is_object(entry)
	worded(entry.msg)
	worded(object.get(entry, "code", "derived"))
}

findings contains finding if {
	some s in said
	wellformed(s.entry)
	code := code_of(s)
	rule := described(s.package, code)
	active(rule)
	finding := {
		"code": code,
		"title": object.get(rule, "title", ""),
		"msg": msg_of(s.entry),
		"solution": solution_of(s.entry, rule),
		"package": s.package,
		"severity": object.get(rule, "severity", object.get(carried(s), "severity", s.set)),
		"effective_on": effective_on(rule, s),
		"path": path_of(s.entry),
		"depends_on": object.get(rule, "depends_on", []),
	}
}

effective_on(rule, s) := object.get(carried(s), "effective_on", "") if {
	object.get(rule, "effective_on", "") == ""
} else := rule.effective_on

# Rules of other tools can say with a finding what else only metadata say.
carried(s) := s.entry.carried if {
	data.trustgate.adapted[s.package]
	is_object(s.entry)
} else := {}

worded(text) if {
	is_string(text)
	trim_space(text) != ""
}

# A finding that nobody can read is still a finding.
findings contains finding if {
	some s in said
	not wellformed(s.entry)
	finding := {
		"code": "policy.malformed",
		"title": "A rule returned something unreadable",
		"msg": sprintf("an entry of trustgate.policies.%s.%s is neither a string nor an object with msg: %s", [
			s.package, s.set, substring(json.marshal(s.entry), 0, 200),
		]),
		"solution": "Let the rule return objects with code and msg.",
		"package": s.package,
		"severity": "deny",
		"effective_on": "",
		"path": [],
	}
}

code_of(s) := s.package if is_string(s.entry)

code_of(s) := object.get(s.entry, "code", s.package) if is_object(s.entry)

msg_of(entry) := entry if is_string(entry)

msg_of(entry) := entry.msg if is_object(entry)

solution_of(entry, rule) := entry.solution if {
	is_object(entry)
	is_string(entry.solution)
} else := object.get(rule, "solution", "")

path_of(entry) := entry.path if {
	is_object(entry)
	is_array(entry.path)
	every step in entry.path {
		is_string(step)
	}
} else := []

# The metadata of the rule that reports the code, or that of its package.
described(package_name, code) := object.get(
	data.trustgate.rules, [package_name, code],
	object.get(data.trustgate.rules, [package_name, ""], {}),
)

active(rule) if object.get(rule, "collections", []) == []

active(_) if data.trustgate.collections == []

active(rule) if {
	some collection in rule.collections
	collection in data.trustgate.collections
}

# What becomes of each finding in the strictest mode.
settled contains object.union(f, outcome(f)) if some f in findings

outcome(f) := {"effect": "block", "because": ""} if {
	f.code == "policy.malformed"
} else := {"effect": "serve", "because": because, "exception": object.get(x, "id", ""), "ends": ends} if {
	standing := [x | some x in exceptions; x.code == f.code]
	x := standing[0]
	because := sprintf("exception by %s until %s: %s", [x.owner, x.expires, x.reason])
	ends := lib.instant(x.expires)
} else := {"effect": "annotate", "because": ""} if {
	f.severity == "warn"
} else := {"effect": "annotate", "because": because, "msg": msg, "ends": ends} if {
	f.effective_on != ""
	ends := lib.instant(f.effective_on)
	ends > lib.now
	because := sprintf("not yet effective: blocks from %s", [f.effective_on])
	msg := sprintf("%s (blocks from %s)", [f.msg, f.effective_on])
} else := {"effect": "block", "because": ""}

# The exceptions that stand and that cover this image.
exceptions := [x |
	some x in data.trustgate.config.exceptions
	covers(x)
	lib.instant(x.expires) > lib.now
]

covers(x) if {
	named := {key | some key in ["repository", "digest"]; x[key]}
	count(named) > 0
	every key in named {
		fits(key, x[key])
	}
}

fits("repository", pattern) if lib.matches([pattern], lib.name)

fits("digest", digest) if digest == input.image.digest

# An index commits to the digest of each image that it lists.
fits("digest", digest) if digest == input.image.index.digest

# What becomes of each finding in the mode that applies.
moded contains f if {
	some s in settled
	effect := in_mode(lib.mode, s.effect)
	f := object.union(s, {"effect": effect, "because": because(s, effect)})
}

in_mode("enforce", effect) := effect

in_mode("annotate", effect) := "annotate" if {
	effect == "block"
} else := effect

in_mode("audit", _) := "serve"

because(s, effect) := s.because if {
	s.effect == effect
} else := concat("; ", [text | some text in [s.because, concat(" ", ["mode", lib.mode])]; text != ""])

reasons := [reason |
	some entry in sort([[rank[f.effect], f.code, f.package, f] | some f in moded; not implied(f)])
	reason := object.remove(entry[3], {"effective_on", "depends_on", "ends"})
]

# What depends on something that blocks anyway says nothing new. What that depends on in
# turn is not followed: a circle would leave nothing to say.
implied(f) if {
	some code in object.get(f, "depends_on", [])
	some other in settled
	other.code == code
	other.effect == "block"
	object.get(other, "depends_on", []) == []
}

rank := {"block": 0, "annotate": 1, "serve": 2}

annotations := {code: text |
	some code in {r.code | some r in reasons; r.effect == "annotate"}
	text := concat("; ", [r.msg | some r in reasons; r.code == code; r.effect == "annotate"])
}
