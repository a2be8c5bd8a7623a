package trustgate.policies.signature_test

import data.trustgate.policies.signature
import data.trustgate_test.fixtures as f

denied(judged) := found if found := signature.deny with input as judged

test_signed_by_a_named_signer if {
	count(denied(f.image)) == 0
}

test_no_signature if {
	f.messages(denied(f.with_changes({"/signatures": []}))) == {"no signature by a named signer (found none)"}
}

test_unknown_key if {
	found := denied(f.with_changes({"/signatures": [f.unverified("made by an unknown key")]}))
	found == {{"code": "signature.missing", "msg": "no signature by a named signer (found 1: made by an unknown key)"}}
}

test_many_reasons_are_cut_short if {
	texts := ["d", "b", "a", "c", "", "a"]
	found := denied(f.with_changes({"/signatures": [f.unverified(t) | some t in texts]}))
	f.messages(found) == {"no signature by a named signer (found 6: a, b, c and 2 more)"}
}

# What says that it is verified and names nobody is not signed.
test_verified_by_nobody if {
	nobody := object.union(f.signature("x"), {"signer": null})
	f.codes(denied(f.with_changes({"/signatures": [nobody]}))) == {"signature.missing"}
}

# Naming a signer is a claim like any other.
test_names_a_signer_unverified if {
	claimed := object.union(f.signature("release"), {"verified": false})
	f.messages(denied(f.with_changes({"/signatures": [claimed]}))) == {"no signature by a named signer (found 1: not made by a named signer)"}
}

test_other_tag if {
	other := object.union(f.signature("release"), {"reference": "registry.example/acme/app:0.9", "reference_matches": false})
	found := denied(f.with_changes({"/signatures": [other]}))
	found == {{"code": "signature.reference", "msg": "signed by release for registry.example/acme/app:0.9, not for registry.example/acme/app:1"}}
}

test_other_repository_by_digest if {
	other := object.union(f.signature("release"), {"reference": "registry.example/acme/tool:1", "reference_matches": false})
	found := denied(f.with_changes({"/signatures": [other], "/image/tag": ""}))
	f.messages(found) == {sprintf("signed by release for registry.example/acme/tool:1, not for registry.example/acme/app@%s", [f.image.image.digest])}
}

test_names_nothing if {
	nameless := object.union(f.signature("release"), {"kind": "notation", "reference": "", "reference_matches": null})
	count(denied(f.with_changes({"/signatures": [nameless]}))) == 0
}

test_one_of_several_fits if {
	other := object.union(f.signature("release"), {"reference_matches": false})
	count(denied(f.with_changes({"/signatures": [f.unverified("expired"), other, f.signature("ci")]}))) == 0
}

# The fitting name and the named signer must be those of one signature.
test_fits_but_unverified if {
	other := object.union(f.signature("release"), {"reference": "registry.example/acme/app:0.9", "reference_matches": false})
	fits := object.union(f.unverified("unknown key"), {"reference_matches": true})
	f.codes(denied(f.with_changes({"/signatures": [other, fits]}))) == {"signature.reference"}
}

test_narrowed_to_names if {
	c := {"rules": {"signature": {"signers": ["ci"]}}}
	found := denied(f.image) with data.trustgate.config as c
	f.messages(found) == {"no signature by a named signer (found 1: made by release, who may not sign this repository)"}
	count(denied(f.with_changes({"/signatures": [f.signature("ci")]}))) == 0 with data.trustgate.config as c
}

test_narrowed_by_repository if {
	c := {"rules": {"signature": {"signers": [
		{"repositories": ["registry.example/acme/*"], "signers": ["ci"]},
		{"repositories": ["registry.example/**"], "signers": ["release"]},
	]}}}
	f.codes(denied(f.image)) == {"signature.missing"} with data.trustgate.config as c
	count(denied(f.with_changes({"/image/repository": "tools/a/b"}))) == 0 with data.trustgate.config as c
}

test_narrowed_elsewhere if {
	c := {"rules": {"signature": {"signers": [{"repositories": ["registry.example/other/*"], "signers": ["ci"]}]}}}
	count(denied(f.image)) == 0 with data.trustgate.config as c
}

test_root_has_met_its_own_requirement if {
	count(denied(f.with_changes({"/signatures": [], "/image/root": true}))) == 0
}

test_artifact_needs_a_signature if {
	f.codes(denied(f.with_changes({"/signatures": [], "/image/kind": "artifact"}))) == {"signature.missing"}
}

test_index_is_judged_through_its_images if {
	count(denied(f.with_changes({"/signatures": [], "/image/kind": "index"}))) == 0
}
