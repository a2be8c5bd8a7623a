package trustgate.lib.styles_test

import data.trustgate.lib.styles
import data.trustgate_test.fixtures as f

test_conftest_finding_of_text if styles.coded("no", "conftest.main") == {"code": "conftest.main", "msg": "no"}

test_conftest_finding_of_object if {
	styles.coded({"msg": "no", "details": 1}, "conftest.main") == {"code": "conftest.main", "msg": "no"}
	styles.coded({"msg": "no", "code": "own"}, "conftest.main") == {"code": "own", "msg": "no"}
}

test_conftest_finding_of_nonsense_stays_nonsense if styles.coded(7, "conftest.main") == 7

test_conforma_finding if {
	styles.result({"code": "policy.release.a.b", "msg": "no", "severity": "warning", "effective_on": "2026-01-01T00:00:00Z", "term": "t"}) == {
		"code": "a.b", "msg": "no",
		"carried": {"severity": "warn", "effective_on": "2026-01-01T00:00:00Z"},
	}
	styles.result({"code": "b", "msg": "no", "severity": "loud", "effective_on": "soon"}) == {"code": "b", "msg": "no", "carried": {}}
	styles.result({"code": 7, "msg": "no"}) == {"code": 7, "msg": "no", "carried": {}}
	styles.result("no") == "no"
}

converted := document if {
	document := styles.conforma with input as seen
}

seen := f.with_changes({
	"/attestations": [f.sbom, f.unattested("t", "no")],
	"/signatures": [
		f.signature("release"),
		f.unverified("no"),
		object.union(f.signature("ci"), {"reference_matches": false}),
		object.union(f.signature("vendor"), {"reference_matches": null}),
	],
	"/image/labels": {"a": "b"},
})

test_conforma_sees_verified_attestations_alone if {
	converted.attestations == [{
		"statement": {
			"predicateType": "https://spdx.dev/Document", "predicate": {"spdxVersion": "SPDX-2.3"},
			"subject": [{"digest": {"sha256": trim_prefix(f.digest(1), "sha256:")}}],
		},
		"signatures": [{"signer": "ci"}],
	}]
}

test_conforma_sees_the_image if {
	converted.image.ref == concat("@", ["registry.example/acme/app", f.digest(1)])
	converted.image.config == {"Labels": {"a": "b"}}
	converted.image.signatures == [{"signer": "release"}, {"signer": "vendor"}]
	converted.image.parent == {"ref": concat("@", ["registry.example/base/node", f.digest("base/node:20")])}
}

test_conforma_sees_no_parent_where_none_is_known if {
	image := styles.conforma.image with input as f.with_changes({"/parents": []})
	not image.parent
}

test_reference_without_tag_and_digest if {
	styles.bare("registry.example:5000/a/b:1@sha256:00") == "registry.example:5000/a/b"
	styles.bare("registry.example:5000/a/b@sha256:00") == "registry.example:5000/a/b"
	styles.bare("registry.example:5000/a/b") == "registry.example:5000/a/b"
}
