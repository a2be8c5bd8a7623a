package trustgate.policies.source_test

import data.trustgate.policies.source
import data.trustgate_test.fixtures as f

denied(judged) := found if found := source.deny with input as judged

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
