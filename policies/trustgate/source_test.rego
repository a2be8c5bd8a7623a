package trustgate.policies.source_test

import data.trustgate.policies.source
import data.trustgate_test.fixtures as f

# What the tag is about follows below.
denied(judged) := {finding | some finding in found; finding.code != "source.tag"} if {
	found := source.deny with input as judged
}

test_trusted_source if {
	count(denied(f.image)) == 0
}

test_nothing_names_it if {
	found := denied(f.with_changes({"/source/verified": false, "/source/trusted": false, "/source/repository": "", "/source/via": ""}))
	found == {{"code": "source.unknown", "msg": "the source is not known from verified provenance (nothing names it)"}}
}

test_claims if {
	every via, says in {
		"label": "a label names", "annotation": "an annotation names",
		"provenance": "unverified provenance names", "": "a claim names",
	} {
		found := denied(f.with_changes({"/source/verified": false, "/source/via": via}))
		f.messages(found) == {sprintf("the source is not known from verified provenance (%s https://git.example/acme/app)", [says])}
	}
}

test_no_revision if {
	found := denied(f.with_changes({"/source/revision": ""}))
	f.messages(found) == {"the source is not known from verified provenance (it names https://git.example/acme/app but no revision)"}
}

test_untrusted if {
	found := denied(f.with_changes({"/source/trusted": false}))
	found == {{"code": "source.untrusted", "msg": "built from https://git.example/acme/app, which is not in trust.sources"}}
}

test_root if {
	count(denied(f.with_changes({"/source/verified": false, "/image/root": true}))) == 0
}

test_artifact if {
	f.codes(denied(f.with_changes({"/source/trusted": false, "/image/kind": "artifact"}))) == {"source.untrusted"}
}

untagged(changes) := {finding.msg | some finding in found; finding.code == "source.tag"} if {
	found := source.deny with input as f.with_changes(changes)
}

test_released_by_a_signed_tag if {
	untagged({}) == set()
}

test_no_tag if {
	untagged({"/source/tag": null}) == {"no git tag releases the revision 4a5b6c"}
}

test_tag_by_nobody_known if {
	every tag, why in {
		{"verified": false, "signer": null, "error": "made by an unknown key"}: "made by an unknown key",
		{"verified": false, "error": ""}: "its signature is by nobody known",
		{"signer": null, "error": ""}: "its signature is by nobody known",
	} {
		found := untagged({"/source/tag": object.union(f.source.tag, tag)})
		found == {sprintf("the git tag v1 is not signed by a named signer (%s)", [why])}
	}
}

# A tag that is signed well says nothing about an image that only claims to come
# from its revision.
test_tag_of_a_claimed_revision if {
	every change in [{"/source/verified": false}, {"/source/revision": ""}, {"/source/repository": ""}] {
		untagged(change) == {"no tag can vouch for it: no verified provenance names the revision"}
	}
}

test_tag_by_one_who_may_not_release if {
	narrowed := {"rules": {"source_tag": {"signers": ["head"]}}}
	found := untagged({}) with data.trustgate.config as narrowed
	found == {"the git tag v1 is signed by release, who may not release"}
	widened := {"rules": {"source_tag": {"signers": ["head", "release"]}}}
	untagged({}) == set() with data.trustgate.config as widened
}

test_tag_of_a_root if {
	untagged({"/source/tag": null, "/image/root": true}) == set()
}
