package trustgate.policies.sbom_test

import data.trustgate.policies.sbom
import data.trustgate_test.fixtures as f

denied(judged) := found if found := sbom.deny with input as judged

among(attestations) := denied(f.with_changes({"/attestations": attestations}))

test_each_kind_will_do if {
	every type in [
		"https://spdx.dev/Document", "https://spdx.dev/Document/v2.3",
		"https://cyclonedx.org/bom", "https://cyclonedx.org/bom/v1.6",
	] {
		count(among([f.attestation(type, {"bomFormat": "CycloneDX"})])) == 0
	}
	count(among([f.attestation("https://spdx.dev/Document", "SPDXVersion: SPDX-2.3")])) == 0
}

test_none if {
	among([f.scan("2026-06-01T06:00:00Z", [])]) == {{"code": "sbom.missing", "msg": "no SBOM by a named signer (found none)"}}
}

test_similar_types_will_not_do if {
	every type in ["https://spdx.dev/Documents", "http://spdx.dev/Document", "https://cyclonedx.org/bom2", "https://cyclonedx.org/"] {
		f.messages(among([f.attestation(type, {"spdxVersion": "SPDX-2.3"})])) == {"no SBOM by a named signer (found none)"}
	}
}

test_only_claimed if {
	f.messages(among([f.unattested("https://spdx.dev/Document", ""), f.unattested("https://cyclonedx.org/bom", "made by an unknown key")])) == {"no SBOM by a named signer (found 2: made by an unknown key, not signed by a named signer)"}
}

# What says that it is verified and names nobody is not signed.
test_verified_by_nobody if {
	f.messages(among([object.union(f.sbom, {"signer": null})])) == {"no SBOM by a named signer (found 1: not usable)"}
}

test_nothing_in_it if {
	every predicate in [null, {}, "", " ", [], [1], 1, true] {
		f.messages(among([f.attestation("https://spdx.dev/Document", predicate)])) == {"no SBOM by a named signer (found 1: not usable)"}
	}
}

test_root if {
	count(denied(f.with_changes({"/attestations": [], "/image/root": true}))) == 0
}

test_artifact if {
	f.codes(denied(f.with_changes({"/attestations": [], "/image/kind": "artifact"}))) == {"sbom.missing"}
}
