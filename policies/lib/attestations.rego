# What several rules ask of the attestations.
package trustgate.lib

# Those of one predicate type, in whatever version.
attestations(type) := [input.attestations[i] |
	prefix := concat("", [type, "/"])
	some i, attested in predicate_types
	startswith(attested, prefix)
]

predicate_types := [concat("", [a.predicate_type, "/"]) | some a in input.attestations]

# Those among them by a named signer.
vouched(list) := [a |
	some a in list
	a.verified
	not is_null(a.signer)
]

# Why none of them will do.
found(list) := "found none" if count(list) == 0

found(list) := sprintf("found %d: %s", [count(list), few({shortcoming(a) | some a in list})]) if count(list) > 0

shortcoming(a) := "not usable" if {
	a.verified
} else := a.error if {
	a.error != ""
} else := "not signed by a named signer"

# A predicate is of whatever form its signer gave it: none of these fails.

# The members of a list that may be left out; undefined where it is no list.
members(of, key) := of[key] if {
	is_array(of[key])
} else := [] if {
	is_object(of)
	is_null(object.get(of, key, null))
}

listed(of, key) := list if {
	list := members(of, key)
} else := []

worded(text) if {
	is_string(text)
	trim_space(text) != ""
}
