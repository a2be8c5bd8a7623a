package trustgate.policies.layers_test

import data.trustgate.policies.layers
import data.trustgate_test.fixtures as f

denied(judged) := found if found := layers.deny with input as judged

test_all_in_the_registry if {
	count(denied(f.image)) == 0
}

test_foreign if {
	found := denied(f.with_changes({"/image/layers/0/foreign": true}))
	found == {{"code": "layers.foreign", "msg": sprintf("fetched from outside the registry: %s", [f.digest(2)])}}
}

# Nothing excuses a layer that the gate never sees, not even being a root.
test_foreign_in_a_root if {
	f.codes(denied(f.with_changes({"/image/layers/0/foreign": true, "/image/root": true}))) == {"layers.foreign"}
}
