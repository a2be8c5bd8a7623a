package trustgate.policies.evidence_test

import data.trustgate.policies.evidence
import data.trustgate_test.fixtures as f

failed := f.with_changes({"/errors": [
	{"collector": "cosign", "message": "the registry answered 500", "temporary": true},
	{"collector": "openpgp", "message": "no route to host", "temporary": true},
]})

both := {
	"could not gather all evidence: cosign: the registry answered 500",
	"could not gather all evidence: openpgp: no route to host",
}

test_nothing_failed if {
	count(evidence.deny) == 0 with input as f.image
	count(evidence.warn) == 0 with input as f.image
}

test_errors_deny if {
	f.messages(evidence.deny) == both with input as failed
	count(evidence.warn) == 0 with input as failed
}

test_errors_annotate_by_route if {
	c := {"routes": {"registry.example": {"errors": "annotate"}}}
	count(evidence.deny) == 0 with input as failed with data.trustgate.config as c
	f.messages(evidence.warn) == both with input as failed with data.trustgate.config as c
}

test_scope_before_route if {
	c := {"routes": {"registry.example": {"errors": "annotate", "scopes": [
		{"repositories": ["other/*"], "errors": "annotate"},
		{"repositories": ["acme/*"], "errors": "block"},
	]}}}
	f.messages(evidence.deny) == both with input as failed with data.trustgate.config as c
}

test_another_routes_setting if {
	c := {"routes": {"other.example": {"errors": "annotate"}}}
	f.messages(evidence.deny) == both with input as failed with data.trustgate.config as c
}

test_index if {
	index := json.patch(failed, [{"op": "replace", "path": "/image/kind", "value": "index"}])
	count(evidence.deny) == 0 with input as index
}
