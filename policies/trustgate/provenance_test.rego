package trustgate.policies.provenance_test

import data.trustgate.policies.provenance
import data.trustgate_test.fixtures as f

denied(judged) := found if found := provenance.deny with input as judged

attestation(type, verified, error) := {
	"predicate_type": type, "verified": verified, "signer": null, "subject": "", "predicate": null,
	"location": "", "inherited": false, "error": error,
}

test_trusted_builder if {
	count(denied(f.image)) == 0
}

test_none if {
	found := denied(f.with_changes({"/build/verified": false, "/build/trusted": false}))
	found == {{"code": "provenance.missing", "msg": "no provenance by a named signer (found none)"}}
}

test_only_claimed if {
	found := denied(f.with_changes({
		"/build/verified": false,
		"/attestations": [
			attestation("https://slsa.dev/provenance/v1", false, ""),
			attestation("https://spdx.dev/Document", false, "no matter"),
		],
	}))
	f.messages(found) == {"no provenance by a named signer (found 1: not signed by a named signer)"}
}

test_why_not if {
	found := denied(f.with_changes({
		"/build/verified": false,
		"/attestations": [
			attestation("https://slsa.dev/provenance/v0.2", false, "made by an unknown key"),
			attestation("https://slsa.dev/provenance/v1", true, ""),
		],
	}))
	f.messages(found) == {"no provenance by a named signer (found 2: made by an unknown key, not usable)"}
}

# Trust without verification is no trust.
test_trusted_but_unverified if {
	f.codes(denied(f.with_changes({"/build/verified": false}))) == {"provenance.missing"}
}

test_other_builder if {
	found := denied(f.with_changes({"/build/trusted": false}))
	found == {{"code": "provenance.builder", "msg": "built by https://ci.example/builder, and no entry of trust.builders lets ci vouch for that"}}
}

test_no_builder_named if {
	found := denied(f.with_changes({"/build/trusted": false, "/build/builder_id": "", "/build/signer": null}))
	f.messages(found) == {"the provenance names no builder, and no entry of trust.builders lets its signer vouch for that"}
}

test_root if {
	count(denied(f.with_changes({"/build/verified": false, "/image/root": true}))) == 0
}

test_artifact if {
	f.codes(denied(f.with_changes({"/build/verified": false, "/image/kind": "artifact"}))) == {"provenance.missing"}
}

test_index if {
	count(denied(f.with_changes({"/build/verified": false, "/image/kind": "index"}))) == 0
}
