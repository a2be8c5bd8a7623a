package trustgate.policies.build_test

import data.trustgate.policies.build
import data.trustgate_test.fixtures as f

denied(judged) := found if found := build.deny with input as judged

reproduced(by, agree, disagree) := denied(f.with_changes({"/build/reproduced": {"by": by, "agree": agree, "disagree": disagree}}))

test_two_agree if {
	count(denied(f.image)) == 0
}

test_nobody_built_it_again if {
	reproduced([], 0, 0) == {{"code": "build.reproduced", "msg": "builders that agree on this digest: 0, and 2 are demanded"}}
}

test_one_is_not_enough if {
	f.messages(reproduced(["a"], 1, 0)) == {"builders that agree on this digest: 1 (a), and 2 are demanded"}
}

# Whoever builds twice is still one.
test_one_that_built_twice if {
	f.messages(reproduced(["a", "a"], 2, 0)) == {"builders that agree on this digest: 1 (a), and 2 are demanded"}
}

# Of those who built it, not all came to this digest.
test_names_of_more_than_agree if {
	f.messages(reproduced(["a", "b"], 1, 1)) == {
		"builders that agree on this digest: 1 (a, b), and 2 are demanded",
		"builders that came to another digest: 1",
	}
}

test_one_disagrees if {
	f.messages(reproduced(["a", "b", "c"], 3, 1)) == {"builders that came to another digest: 1"}
}

test_as_many_as_the_configuration_says if {
	one := {"rules": {"reproduced": {"at_least": 1}}}
	count(reproduced(["a"], 1, 0)) == 0 with data.trustgate.config as one
	three := {"rules": {"reproduced": {"at_least": 3}}}
	f.codes(denied(f.image)) == {"build.reproduced"} with data.trustgate.config as three
}

test_root if {
	count(denied(f.with_changes({"/build/reproduced/by": [], "/image/root": true}))) == 0
}

test_artifact if {
	f.codes(denied(f.with_changes({"/build/reproduced/by": [], "/image/kind": "artifact"}))) == {"build.reproduced"}
}
