package trustgate_test.aggregator

import data.trustgate_test.fixtures as f

decide(packages, rules, config) := d if {
	d := data.trustgate.decision with input as f.image
		with data.trustgate.policies as packages
		with data.trustgate.rules as rules
		with data.trustgate.config as config
		with data.trustgate.collections as []
}

denying := {"acme": {"deny": {{"code": "acme.old", "msg": "it is old"}}}}

in_mode(mode) := {"routes": {"registry.example": {"mode": mode}}}

excepting(x) := {"exceptions": [object.union({"code": "acme.old", "owner": "ops", "reason": "until the move", "expires": "2026-07-01"}, x)]}

only(decision) := decision.reasons[0] if count(decision.reasons) == 1

test_nothing_said if {
	decide({"acme": {"deny": set()}}, {}, {}) == {"action": "serve", "before_mode": "serve", "reasons": [], "annotations": {}}
}

test_deny_blocks if {
	d := decide(denying, {"acme": {"acme.old": {"title": "Not old", "solution": "Build it anew."}}}, {})
	d.action == "block"
	d.before_mode == "block"
	d.annotations == {}
	only(d) == {
		"code": "acme.old", "title": "Not old", "msg": "it is old", "solution": "Build it anew.", "package": "acme",
		"severity": "deny", "effect": "block", "because": "", "path": [],
	}
}

test_warn_annotates if {
	d := decide({"acme": {"warn": {"it is old", "it is large"}}}, {}, {})
	d.action == "annotate"
	d.before_mode == "annotate"
	d.annotations == {"acme": "it is large; it is old"}
	[r.code | some r in d.reasons] == ["acme", "acme"]
}

test_entry_before_metadata if {
	entry := {"code": "acme.old", "msg": "it is old", "solution": "Build it today.", "path": ["a", "b"], "extra": {"n": 1}}
	r := only(decide({"acme": {"deny": {entry}}}, {"acme": {"acme.old": {"solution": "Build it."}}}, {}))
	r.solution == "Build it today."
	r.path == ["a", "b"]
	not r.extra
}

test_path_that_is_none if {
	r := only(decide({"acme": {"deny": {{"msg": "it is old", "path": "/etc"}}}}, {}, {}))
	r.path == []
}

test_malformed if {
	every entry in [1, true, null, "", " ", [], {}, {"code": "x"}, {"msg": ""}, {"msg": 1}, {"msg": "m", "code": 1}, {"msg": "m", "code": ""}] {
		every set_name in ["deny", "warn"] {
			d := decide({"acme": {set_name: {entry}}}, {"acme": {"": {"effective_on": "2027-01-01"}}}, {})
			d.action == "block"
			only(d).code == "policy.malformed"
		}
	}
}

test_malformed_is_not_excused if {
	d := decide({"acme": {"deny": {1}}}, {}, excepting({"code": "policy.malformed", "repository": "**"}))
	d.action == "block"
}

test_modes if {
	every mode, action in {"enforce": "block", "annotate": "annotate", "audit": "serve", "": "block", "off": "block"} {
		d := decide(denying, {}, in_mode(mode))
		d.action == action
		d.before_mode == "block"
	}
}

test_no_route_is_enforced if {
	decide(denying, {}, {"routes": {"other.example": {"mode": "audit"}}}).action == "block"
	decide(denying, {}, {}).action == "block"
}

# A mode weakens blocks and nothing else.
test_warnings_in_each_mode if {
	every mode, action in {"enforce": "annotate", "annotate": "annotate", "audit": "serve"} {
		d := decide({"acme": {"warn": {"it is old"}}}, {}, in_mode(mode))
		d.action == action
		d.before_mode == "annotate"
	}
	only(decide({"acme": {"warn": {"it is old"}}}, {}, in_mode("annotate"))).because == ""
}

test_mode_is_told if {
	only(decide(denying, {}, in_mode("annotate"))).because == "mode annotate"
	decide(denying, {}, in_mode("annotate")).annotations == {"acme.old": "it is old"}
	only(decide(denying, {}, in_mode("audit"))).because == "mode audit"
	decide(denying, {}, in_mode("audit")).annotations == {}
	only(decide(denying, {}, in_mode("enforce"))).because == ""
}

test_first_scope_wins if {
	config := {"routes": {"registry.example": {"mode": "enforce", "scopes": [
		{"repositories": ["other/*"], "mode": "audit"},
		{"repositories": ["nothing", "acme/*"], "mode": "annotate"},
		{"repositories": ["acme/app"], "mode": "audit"},
	]}}}
	decide(denying, {}, config).action == "annotate"
}

test_scope_without_a_mode if {
	config := {"routes": {"registry.example": {"mode": "annotate", "scopes": [{"repositories": ["acme/*"], "errors": "annotate"}]}}}
	decide(denying, {}, config).action == "annotate"
}

test_star_stays_within_one_folder if {
	config := {"routes": {"registry.example": {"scopes": [{"repositories": ["*"], "mode": "audit"}]}}}
	decide(denying, {}, config).action == "block"
}

test_not_yet_effective if {
	d := decide(denying, {"acme": {"acme.old": {"effective_on": "2026-06-02"}}}, {})
	d.action == "annotate"
	d.before_mode == "annotate"
	r := only(d)
	r.severity == "deny"
	r.msg == "it is old (blocks from 2026-06-02)"
	r.because == "not yet effective: blocks from 2026-06-02"
	not r.effective_on
}

test_effective if {
	every since in ["2026-06-01", "2026-06-01T12:00:00Z", "2026-06-01T13:00:00+01:00", ""] {
		decide(denying, {"acme": {"acme.old": {"effective_on": since}}}, {}).action == "block"
	}
}

test_package_metadata_hold_for_codes_without_any if {
	rules := {"acme": {"": {"effective_on": "2027-01-01"}, "acme.large": {}}}
	decide(denying, rules, {}).action == "annotate"
	decide({"acme": {"deny": {{"code": "acme.large", "msg": "m"}}}}, rules, {}).action == "block"
	decide({"other": {"deny": {{"code": "acme.old", "msg": "m"}}}}, rules, {}).action == "block"
}

test_severity_by_metadata if {
	decide(denying, {"acme": {"acme.old": {"severity": "warn"}}}, {}).action == "annotate"
	decide({"acme": {"warn": {{"code": "acme.old", "msg": "m"}}}}, {"acme": {"acme.old": {"severity": "deny"}}}, {}).action == "block"
}

test_exception if {
	every x in [
		{"repository": "registry.example/acme/app"},
		{"repository": "registry.example/acme/*"},
		{"repository": "registry.example/**"},
		{"digest": f.image.image.digest},
		{"repository": "registry.example/acme/app", "digest": f.image.image.digest},
		{"repository": "**", "expires": "2026-06-01T12:00:01Z"},
	] {
		d := decide(denying, {}, excepting(x))
		d.action == "serve"
		d.before_mode == "serve"
		startswith(only(d).because, "exception by ops until ")
	}
	only(decide(denying, {}, excepting({"repository": "**"}))).because == "exception by ops until 2026-07-01: until the move"
}

test_exception_is_named if {
	only(decide(denying, {}, excepting({"repository": "**", "id": "ex-one"}))).exception == "ex-one"
	not only(decide(denying, {}, excepting({"repository": "acme/app", "id": "ex-one"}))).exception
}

test_until_the_first_end if {
	d := decide(denying, {}, excepting({"repository": "**"}))
	d.until == "2026-07-01T00:00:00Z"
	not only(d).ends
	announced := decide(denying, {"acme": {"": {"effective_on": "2027-01-01"}}}, {})
	announced.until == "2027-01-01T00:00:00Z"
	not decide(denying, {}, {}).until
	not decide(denying, {"acme": {"": {"effective_on": "2020-01-01"}}}, {}).until
}

test_exception_that_does_not_hold if {
	every x in [
		{"repository": "acme/app"},
		{"repository": "registry.example/*"},
		{"repository": "registry.example/acme/application"},
		{"digest": f.digest(99)},
		{"repository": "registry.example/other", "digest": f.image.image.digest},
		{"repository": "**", "code": "acme"},
		{"repository": "**", "expires": "2026-06-01"},
		{"repository": "**", "expires": "2026-06-01T12:00:00Z"},
		{},
	] {
		decide(denying, {}, excepting(x)).action == "block"
	}
}

test_exception_by_the_index if {
	child := f.with_changes({"/image/index": {"digest": f.digest(7), "reference": ""}})
	d := data.trustgate.decision with input as child
		with data.trustgate.policies as denying
		with data.trustgate.config as excepting({"digest": f.digest(7)})
	d.action == "serve"
}

test_exception_covers_one_code if {
	both := {"acme": {"deny": {{"code": "acme.old", "msg": "m"}, {"code": "acme.large", "msg": "m"}}}}
	d := decide(both, {}, excepting({"repository": "**"}))
	d.action == "block"
	[[r.code, r.effect] | some r in d.reasons] == [["acme.large", "block"], ["acme.old", "serve"]]
}

test_collections if {
	rules := {
		"acme": {"acme.old": {"collections": ["fresh"]}},
		"signature": {"signature.missing": {"collections": ["signed"]}},
	}
	packages := object.union(denying, {"signature": {"deny": {{"code": "signature.missing", "msg": "m"}}}})
	every chosen, codes in {
		["fresh"]: ["acme.old"], ["signed"]: ["signature.missing"],
		["fresh", "signed"]: ["acme.old", "signature.missing"], []: ["acme.old", "signature.missing"], ["other"]: [],
	} {
		d := data.trustgate.decision with input as f.image
			with data.trustgate.policies as packages
			with data.trustgate.rules as rules
			with data.trustgate.collections as chosen
		[r.code | some r in d.reasons] == codes
	}
}

test_rules_without_collections_are_always_active if {
	d := data.trustgate.decision with input as f.image
		with data.trustgate.policies as denying
		with data.trustgate.collections as ["signed"]
	d.action == "block"
}

test_order if {
	packages := {
		"a": {"warn": {{"code": "z", "msg": "1"}, {"code": "a", "msg": "2"}}},
		"b": {"deny": {{"code": "y", "msg": "4"}, {"code": "y", "msg": "3"}}},
	}
	d := decide(packages, {}, {})
	[r.msg | some r in d.reasons] == ["3", "4", "2", "1"]
}

test_shipped_rules_serve_what_is_trusted if {
	d := data.trustgate.decision with input as f.image
	d == {"action": "serve", "before_mode": "serve", "reasons": [], "annotations": {}}
}

# What rules of another tool say with their findings.
carrying(entry, rules) := d if {
	d := data.trustgate.decision with input as f.image
		with data.trustgate.policies as {"conforma.a": {"deny": {object.union({"code": "a.b", "msg": "no"}, {"carried": entry})}}}
		with data.trustgate.rules as {"conforma.a": rules}
		with data.trustgate.config as {}
		with data.trustgate.collections as []
		with data.trustgate.adapted as {"conforma.a": "conforma"}
}

test_carried_severity_and_date if {
	carrying({}, {}).action == "block"
	carrying({"severity": "warn"}, {}).action == "annotate"
	carrying({"effective_on": "2027-01-01"}, {}).action == "annotate"
	carrying({"effective_on": "2026-01-01"}, {}).action == "block"
}

test_metadata_before_what_is_carried if {
	carrying({"severity": "warn"}, {"a.b": {"severity": "deny"}}).action == "block"
	carrying({"effective_on": "2027-01-01"}, {"a.b": {"effective_on": "2026-01-01"}}).action == "block"
}

test_only_rules_of_other_tools_carry if {
	decide({"acme": {"deny": {{"msg": "no", "carried": {"severity": "warn"}}}}}, {}, {}).action == "block"
}

depending(config) := decide(
	{"acme": {"deny": {{"code": "acme.old", "msg": "it is old"}, {"code": "acme.base", "msg": "it has no base"}}}},
	{"acme": {"acme.old": {"depends_on": ["acme.base"]}}}, config,
)

test_what_depends_on_a_block_is_not_said if only(depending({})).code == "acme.base"

test_what_depends_on_a_block_is_not_said_in_another_mode if {
	d := depending(in_mode("annotate"))
	only(d).code == "acme.base"
	d.action == "annotate"
	d.before_mode == "block"
}

test_what_depends_on_each_other_is_said if {
	d := decide(
		{"acme": {"deny": {{"code": "acme.a", "msg": "a"}, {"code": "acme.b", "msg": "b"}}}},
		{"acme": {"acme.a": {"depends_on": ["acme.b"]}, "acme.b": {"depends_on": ["acme.a"]}}}, {},
	)
	[r.code | some r in d.reasons] == ["acme.a", "acme.b"]
}

test_what_depends_on_an_excused_block_is_said if {
	d := depending(excepting({"code": "acme.base", "repository": "**"}))
	d.action == "block"
	[r.code | some r in d.reasons] == ["acme.old", "acme.base"]
}
