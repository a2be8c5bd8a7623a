package trustgate.policies.packages_test

import data.trustgate.policies.packages
import data.trustgate_test.fixtures as f

denied(changes) := found if found := packages.deny with input as f.with_changes(changes)

warned(changes) := found if found := packages.warn with input as f.with_changes(changes)

test_untouched if {
	count(denied({})) == 0
	count(warned({})) == 0
}

test_changed_and_removed_files if {
	denied({"/packages/modified": ["/bin/sh"], "/packages/missing": ["/e", "/d", "/c", "/b", "/a"]}) == {
		{"code": "packages.modified", "msg": "files of the packages of debian 12 were changed: /bin/sh"},
		{"code": "packages.modified", "msg": "files of the packages of debian 12 were removed: /a, /b, /c and 2 more"},
	}
}

test_unknown_distribution if {
	f.messages(denied({"/packages/distribution": "", "/packages/modified": ["/bin/sh"]})) == {"files of its packages were changed: /bin/sh"}
}

# They are there to be changed.
test_changed_configuration if {
	count(denied({"/packages/modified_conffiles": ["/etc/passwd"]})) == 0
}

test_replaced_files_of_a_parent if {
	denied({"/packages/replaced": ["/usr/bin/ssh"]}) == {{
		"code": "packages.replaced",
		"msg": "a layer replaced files of the parents' packages: /usr/bin/ssh",
	}}
}

test_stray_setuid_executable if {
	denied({"/packages/unowned_setuid": ["/tmp/x"]}) == {{"code": "packages.setuid", "msg": "more rights than their callers have, and of no package: /tmp/x"}}
}

test_stray_executables if {
	count(denied({"/packages/unowned_executables": ["/usr/local/bin/app"]})) == 0
}

awaited := {{"code": "packages.pending", "msg": "its packages are not examined yet"}}

test_pending_warns if {
	warned({"/packages/state": "pending"}) == awaited
	count(denied({"/packages/state": "pending"})) == 0
}

test_pending_by_configuration if {
	every choice, effect in {"block": [1, 0], "annotate": [0, 1], "ignore": [0, 0]} {
		c := {"rules": {"packages": {"pending": choice}}}
		denied_ := denied({"/packages/state": "pending"}) with data.trustgate.config as c
		warned_ := warned({"/packages/state": "pending"}) with data.trustgate.config as c
		[count(denied_), count(warned_)] == effect
	}
}

test_failed if {
	denied({"/packages/state": "failed", "/packages/error": "the layer is damaged"}) == {{
		"code": "packages.failed",
		"msg": "its packages could not be examined: the layer is damaged",
	}}
	f.messages(denied({"/packages/state": "failed"})) == {`its packages could not be examined: the examination is "failed"`}
}

test_a_state_that_is_none if {
	f.codes(denied({"/packages/state": ""})) == {"packages.failed"}
}

# Nobody looked.
test_never_examined if {
	denied({"/packages": null}) == {{"code": "packages.failed", "msg": "its packages were not examined"}}
	count(warned({"/packages": null})) == 0
}

# The lists that no rule looks at may be long.
test_lists_cut_short if {
	count(denied({"/packages/truncated": true})) == 0
	f.codes(denied({"/packages/truncated": true, "/packages/missing": ["/bin/sh"]})) == {"packages.modified"}
}

# What it found before it failed counts.
test_failed_half_way if {
	f.codes(denied({"/packages/state": "failed", "/packages/replaced": ["/bin/sh"]})) == {"packages.failed", "packages.replaced"}
}

test_root if {
	count(denied({"/packages/modified": ["/bin/sh"], "/image/root": true})) == 0
	count(denied({"/packages": null, "/image/root": true})) == 0
}

test_artifact if {
	count(denied({"/packages": null, "/image/kind": "artifact"})) == 0
	count(warned({"/packages/state": "pending", "/image/kind": "artifact"})) == 0
}
