package trustgate_test.openvex

import data.trustgate.lib.openvex
import data.trustgate_test.fixtures as f

hex(n) := trim_prefix(f.digest(n), "sha256:")

document(statements) := {
	"@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://openvex.dev/docs/example/vex-1", "author": "ci@ci.example",
	"timestamp": "2026-05-01T00:00:00Z", "version": 1, "statements": statements,
}

vex(statements) := f.attestation("https://openvex.dev/ns/v0.2.0", document(statements))

statement(name, status) := {"vulnerability": {"name": name}, "status": status}

at(day, s) := object.union(s, {"timestamp": sprintf("2026-05-%sT00:00:00Z", [day])})

about(products, s) := object.union(s, {"products": products})

affected_by(attestations) := found if found := openvex.affected with input as f.with_changes({"/attestations": attestations})

says(statements) := affected_by([vex(statements)])

absolves(statements, ids, purl) if {
	openvex.absolved(ids, purl) with input as f.with_changes({"/attestations": [vex(statements)]})
}

readable(predicate) if {
	unreadable := openvex.unreadable with input as f.with_changes({"/attestations": [f.attestation("https://openvex.dev/ns", predicate)]})
	count(unreadable) == 0
}

cve := {"CVE-2026-0001"}

test_nothing_said if {
	affected_by([]) == set()
	says([]) == set()
	not absolves([], cve, "")
}

test_affected if {
	says([statement("CVE-2026-0001", "affected"), statement("CVE-2026-0002", "under_investigation")]) == cve
}

test_types if {
	every type, affected in {
		"https://openvex.dev/ns": cve, "https://openvex.dev/ns/v0.2.0": cve, "https://openvex.dev/ns/v1": cve,
		"https://openvex.dev/nsx": set(), "https://openvex.dev/": set(),
	} {
		affected_by([f.attestation(type, document([statement("CVE-2026-0001", "affected")]))]) == affected
	}
}

# Anybody can write one down.
test_unverified_statements_say_nothing if {
	claimed := object.union(vex([statement("CVE-2026-0001", "affected")]), {"verified": false})
	nobody := object.union(vex([statement("CVE-2026-0001", "not_affected")]), {"signer": null})
	affected_by([claimed]) == set()
	not openvex.absolved(cve, "") with input as f.with_changes({"/attestations": [nobody]})
	affected_by([vex([statement("CVE-2026-0001", "affected")]), object.union(vex([at("09", statement("CVE-2026-0001", "fixed"))]), {"verified": false})]) == cve
}

test_later_statement_answers if {
	every status in ["fixed", "not_affected"] {
		says([at("02", statement("CVE-2026-0001", "affected")), at("03", statement("CVE-2026-0001", status))]) == set()
	}
}

test_answer_in_another_document if {
	affected_by([vex([statement("CVE-2026-0001", "affected")]), vex([at("03", statement("CVE-2026-0001", "fixed"))])]) == set()
}

test_what_does_not_answer if {
	every other in [
		at("01", statement("CVE-2026-0001", "fixed")),
		at("02", statement("CVE-2026-0001", "fixed")),
		at("03", statement("CVE-2026-0002", "fixed")),
		at("03", statement("CVE-2026-0001", "under_investigation")),
		at("03", statement("CVE-2026-0001", "Fixed")),
		at("99", statement("CVE-2026-0001", "fixed")),
		at("03", about(["pkg:oci/other"], statement("CVE-2026-0001", "fixed"))),
		at("03", about([{"@id": f.digest(1), "subcomponents": ["pkg:deb/debian/openssl"]}], statement("CVE-2026-0001", "fixed"))),
	] {
		says([at("02", statement("CVE-2026-0001", "affected")), other]) == cve
	}
}

test_affected_again if {
	says([
		at("02", statement("CVE-2026-0001", "affected")),
		at("03", statement("CVE-2026-0001", "fixed")),
		at("04", statement("CVE-2026-0001", "affected")),
	]) == cve
}

# Nothing is later than a time that nobody knows.
test_affected_at_no_time if {
	timeless := object.union(statement("CVE-2026-0001", "affected"), {"timestamp": "soon"})
	says([timeless, at("03", statement("CVE-2026-0001", "fixed"))]) == cve
}

test_names_of_a_vulnerability if {
	answer := at("03", {"status": "fixed", "vulnerability": {"name": "GHSA-1", "aliases": ["cve-2026-0001"]}})
	says([statement("CVE-2026-0001", "affected"), answer]) == set()
	says([{"status": "affected", "vulnerability": {"@id": "https://nvd.nist.gov/vuln/detail/CVE-2026-0001"}}]) == cve
	says([{"status": "affected", "vulnerability": "CVE-2026-0001"}, answer]) == set()
	says([{"status": "affected", "vulnerability": "CVE-2026-0001"}]) == cve
	says([{"status": "affected"}]) == {"a vulnerability without a name"}
	says([{"status": "affected", "vulnerability": {"name": 1, "aliases": "x", "@id": []}}, answer]) == {"a vulnerability without a name"}
}

ours := [
	f.digest(1),
	sprintf("pkg:oci/app@sha256%%3A%s?repository_url=registry.example/acme/app&arch=amd64", [hex(1)]),
	sprintf("pkg:oci/elsewhere@sha256:%s", [hex(1)]),
	{"@id": "https://acme.example/app", "hashes": {"sha-256": hex(1)}},
	{"identifiers": {"purl": "pkg:oci/app?arch=amd64"}},
	"pkg:oci/app",
	"pkg:oci/app?repository_url=registry.example%2Facme%2Fapp",
	"registry.example/acme/app",
	"registry.example/acme/app:1",
]

another := [
	f.digest(8),
	sprintf("pkg:oci/app@sha256%%3A%s", [hex(8)]),
	sprintf("registry.example/acme/app@sha256:%s", [hex(8)]),
	{"@id": "pkg:oci/app", "hashes": {"sha-256": hex(8)}},
	"pkg:deb/debian/openssl@3.0.17",
	{"@id": "https://acme.example/openssl", "identifiers": {"purl": "pkg:apk/wolfi/openssl@3.0.17"}},
]

# These may be this image, or not: they forbid and do not absolve.
unclear := [
	"The App",
	"pkg:oci/tool",
	"pkg:oci/app@1.0",
	"pkg:oci/app?repository_url=other.example/acme/app",
	"pkg:oci/app?arch=arm64",
	sprintf("pkg:oci/app@sha256:%s?arch=arm64", [hex(1)]),
	"registry.example/acme/app:2",
	"pkg:generic/app@1",
	{"@id": "https://acme.example/app", "hashes": {"sha-512": concat("", [hex(8), hex(8)])}},
	1, null, {}, [],
]

test_products_that_are_this_image if {
	every product in ours {
		says([about([product], statement("CVE-2026-0001", "affected"))]) == cve
		absolves([about(["pkg:deb/x", product], statement("CVE-2026-0001", "fixed"))], cve, "")
	}
}

test_products_that_are_another if {
	every product in another {
		says([about([product], statement("CVE-2026-0001", "affected"))]) == set()
		not absolves([about([product], statement("CVE-2026-0001", "fixed"))], cve, "")
	}
}

test_products_that_nobody_can_tell if {
	every product in unclear {
		says([about([product], statement("CVE-2026-0001", "affected"))]) == cve
		not absolves([about([product], statement("CVE-2026-0001", "fixed"))], cve, "")
	}
}

test_products_that_are_no_list if {
	every products in ["pkg:oci/app", 1, {"@id": "pkg:oci/app"}] {
		says([about(products, statement("CVE-2026-0001", "affected"))]) == cve
		not absolves([about(products, statement("CVE-2026-0001", "fixed"))], cve, "")
	}
}

test_docker_hub_by_its_other_name if {
	hub := json.patch(f.with_changes({"/attestations": [vex([about(["pkg:oci/debian?repository_url=index.docker.io/library/debian"], statement("CVE-2026-0001", "fixed"))])]}), [
		{"op": "replace", "path": "/image/registry", "value": "docker.io"},
		{"op": "replace", "path": "/image/repository", "value": "library/debian"},
	])
	openvex.absolved(cve, "") with input as hub
}

test_the_index_that_lists_the_image if {
	through := f.with_changes({"/attestations": [vex([about([f.digest(7)], statement("CVE-2026-0001", "fixed"))])], "/image/index": {"digest": f.digest(7), "reference": ""}})
	openvex.absolved(cve, "") with input as through
}

# An architecture that is asked for must be known.
test_image_of_no_platform if {
	portable := f.with_changes({"/attestations": [vex([about(["pkg:oci/app?arch=amd64"], statement("CVE-2026-0001", "fixed"))])], "/image/platform": ""})
	not openvex.absolved(cve, "") with input as portable
}

openssl := "pkg:deb/debian/openssl@3.0.17-1~deb12u2?arch=amd64&distro=debian-12"

within(components) := [{"@id": f.digest(1), "subcomponents": components}]

test_absolved_package if {
	every component in ["pkg:deb/debian/openssl", "pkg:deb/debian/openssl@3.0.17-1%7Edeb12u2", {"@id": "openssl", "identifiers": {"purl": openssl}}] {
		s := [about(within([component]), statement("CVE-2026-0001", "not_affected"))]
		absolves(s, cve, openssl)
		not absolves(s, cve, "pkg:deb/debian/libssl3@3.0.17")
		not absolves(s, cve, "")
	}
	not absolves([about(within(["pkg:deb/debian/openssl@3.0.16"]), statement("CVE-2026-0001", "not_affected"))], cve, openssl)
}

# What is said of another image's package is not said of this one's.
test_absolved_package_of_another if {
	nginx := {"@id": "pkg:oci/app", "subcomponents": ["pkg:deb/debian/nginx"]}
	every product in [object.union(nginx, {"@id": f.digest(8)}), object.union(nginx, {"@id": "The App"})] {
		s := [about([product, {"@id": f.digest(1), "subcomponents": ["pkg:deb/debian/openssl"]}], statement("CVE-2026-0001", "fixed"))]
		absolves(s, cve, openssl)
		not absolves(s, cve, "pkg:deb/debian/nginx@1")
	}
	absolves([about([nginx, f.digest(1)], statement("CVE-2026-0001", "fixed"))], cve, openssl)
}

# Then all of it is.
test_affected_as_a_whole_and_a_package if {
	both := about([f.digest(1), {"@id": "The App", "subcomponents": ["pkg:deb/debian/openssl"]}], statement("CVE-2026-0001", "affected"))
	says([both, at("02", about(within(["pkg:deb/debian/openssl"]), statement("CVE-2026-0001", "fixed")))]) == cve
	says([both, at("02", statement("CVE-2026-0001", "fixed"))]) == set()
}

test_digest_that_is_none if {
	hollow := f.with_changes({"/attestations": [vex([about(["sha256:"], statement("CVE-2026-0001", "fixed"))])], "/image/digest": "sha256:"})
	not openvex.absolved(cve, "") with input as hollow
}

test_absolved_image if {
	absolves([statement("CVE-2026-0001", "not_affected")], {"GHSA-1", "CVE-2026-0001"}, openssl)
	not absolves([statement("CVE-2026-0001", "not_affected")], {"CVE-2026-00011"}, openssl)
}

test_disputed if {
	good := at("03", statement("CVE-2026-0001", "not_affected"))
	every status in ["affected", "under_investigation", "Affected", ""] {
		not absolves([good, at("03", statement("CVE-2026-0001", status))], cve, openssl)
		not absolves([good, at("04", statement("CVE-2026-0001", status))], cve, openssl)
		absolves([good, at("02", statement("CVE-2026-0001", status))], cve, openssl)
	}
	not absolves([good, object.union(statement("CVE-2026-0001", "affected"), {"timestamp": 1})], cve, openssl)
}

test_disputed_for_another_package if {
	here := at("03", about(within(["pkg:deb/debian/openssl"]), statement("CVE-2026-0001", "not_affected")))
	there := at("04", about(within(["pkg:deb/debian/nginx@1"]), statement("CVE-2026-0001", "affected")))
	absolves([here, there], cve, openssl)
	says([here, there]) == cve
	not absolves([here, at("04", about(within(["pkg:deb/debian/openssl@3.0.17-1~deb12u2"]), statement("CVE-2026-0001", "affected")))], cve, openssl)
}

test_answered_for_the_package if {
	bad := about(within(["pkg:deb/debian/openssl@3.0.17"]), statement("CVE-2026-0001", "affected"))
	says([bad, at("02", about(within(["pkg:deb/debian/openssl"]), statement("CVE-2026-0001", "fixed")))]) == set()
	says([bad, at("02", statement("CVE-2026-0001", "fixed"))]) == set()
	says([bad, at("02", about(within(["pkg:deb/debian/nginx"]), statement("CVE-2026-0001", "fixed")))]) == cve
}

test_incomplete_statements_absolve_nothing if {
	every s in [
		{"vulnerability": {"name": "CVE-2026-0001"}, "status": "fixed", "timestamp": "soon"},
		{"vulnerability": {"name": "CVE-2026-0001"}, "status": "fixed", "products": [{"@id": f.digest(1), "subcomponents": "openssl"}]},
		{"vulnerability": {"name": "CVE-2026-0001"}, "status": "fixed", "products": [{"@id": f.digest(1), "subcomponents": [{}]}]},
		{"vulnerability": {"name": "CVE-2026-0001"}, "status": "fixed", "products": [f.digest(1), {}]},
	] {
		not readable(document([s]))
		not absolves([s], cve, openssl)
	}
}

test_readable if {
	readable(document([]))
	readable(document([about(ours, statement("CVE-2026-0001", "fixed")), {"vulnerability": "CVE-2026-0001", "status": "affected", "products": null}]))
	readable({"statements": [at("01", statement("CVE-2026-0001", "fixed"))]})
}

test_unreadable if {
	every predicate in [
		null, true, 1, "", "text", [], [[]], {}, {"statements": null}, {"statements": {}}, {"statements": "x"},
		document([null]), document(["x"]), document([[]]), document([{}]), document([1]),
		document([{"status": "fixed"}]), document([{"vulnerability": {}, "status": "fixed"}]),
		document([statement("CVE-2026-0001", "FIXED")]), document([statement("CVE-2026-0001", ["fixed"])]), document([statement(" ", "fixed")]),
		{"statements": [statement("CVE-2026-0001", "fixed")]},
		object.union(document([statement("CVE-2026-0001", "fixed")]), {"timestamp": {}}),
	] {
		not readable(predicate)
	}
}

# Whatever is in it, reading it fails at nothing.
test_odd_predicates_say_nothing if {
	every odd in [null, true, 1, "x", [], {}, [null], {"a": null}] {
		every predicate in [odd, {"statements": odd}, document(odd), document([odd]), document([{"vulnerability": odd, "products": [odd], "timestamp": odd, "status": odd}])] {
			affected_by([f.attestation("https://openvex.dev/ns", predicate)]) == set()
			not openvex.absolved(cve, "") with input as f.with_changes({"/attestations": [f.attestation("https://openvex.dev/ns", predicate)]})
		}
	}
}
