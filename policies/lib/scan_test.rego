package trustgate_test.scan

import data.trustgate.lib.scan
import data.trustgate_test.fixtures as f

vuln := "https://cosign.sigstore.dev/attestation/vuln/v1"

of(predicates) := reports if {
	reports := scan.reports with input as f.with_changes({"/attestations": [f.attestation(vuln, p) | some p in predicates]})
}

only(result) := reports[0] if {
	reports := of([{"scanner": {"result": result}, "metadata": {"scanFinishedOn": "2026-06-01T06:00:00Z"}}])
	count(reports) == 1
}

as_read(report) := [[f.id, f.rank, scan.identifiers(f), scan.purl(f)] | some f in report.found]

test_trivy if {
	r := only({"SchemaVersion": 2, "Results": [
		{"Target": "app", "Class": "os-pkgs", "Vulnerabilities": [
			{"VulnerabilityID": "CVE-2026-0001", "PkgName": "openssl", "PkgIdentifier": {"PURL": "pkg:deb/debian/openssl@3"}, "Severity": "HIGH"},
			{"VulnerabilityID": "ghsa-1", "Severity": "UNKNOWN"},
		]},
		{"Target": "secrets", "Class": "secret"},
		{"Target": "go.mod", "Vulnerabilities": null},
	]})
	r.readable
	r.at == time.parse_rfc3339_ns("2026-06-01T06:00:00Z")
	as_read(r) == [
		["CVE-2026-0001", 4, {"CVE-2026-0001"}, "pkg:deb/debian/openssl@3"],
		["ghsa-1", 0, {"GHSA-1"}, ""],
	]
}

test_clean_trivy if {
	every result in [{"SchemaVersion": 2}, {"SchemaVersion": 2, "Results": null}, {"SchemaVersion": 2, "Results": []}, {"Results": []}] {
		r := only(result)
		r.scanner == "Trivy"
		r.readable
		r.found == []
	}
}

test_grype if {
	r := only({
		"matches": [{
			"vulnerability": {"id": "GHSA-1", "severity": "Critical"},
			"relatedVulnerabilities": [{"id": "cve-2026-0001"}, {}, "x"],
			"artifact": {"name": "openssl", "purl": "pkg:deb/debian/openssl@3"},
		}],
		"descriptor": {"name": "grype"},
	})
	r.scanner == "Grype"
	r.readable
	as_read(r) == [["GHSA-1", 5, {"GHSA-1", "CVE-2026-0001"}, "pkg:deb/debian/openssl@3"]]
}

test_clean_grype if {
	r := only({"matches": []})
	r.readable
	r.found == []
}

# What can be read of it counts all the same.
test_half_readable if {
	every spoilt in [null, 1, "x", [], {}, {"VulnerabilityID": "CVE-1"}, {"VulnerabilityID": "CVE-1", "Severity": "important"}, {"VulnerabilityID": "", "Severity": "LOW"}, {"VulnerabilityID": "CVE-1", "Severity": 9}] {
		r := only({"SchemaVersion": 2, "Results": [{"Vulnerabilities": [spoilt, {"VulnerabilityID": "CVE-2", "Severity": "LOW", "PkgIdentifier": spoilt}]}]})
		not r.readable
		[v.id | some v in r.found] == ["CVE-2"]
		some v in r.found
		scan.purl(v) == ""
	}
	every spoilt in [null, 1, "x", [], {}, {"vulnerability": {"id": "CVE-1"}}, {"vulnerability": {"id": "CVE-1", "severity": "important"}}, {"vulnerability": "CVE-1"}] {
		r := only({"matches": [spoilt, {"vulnerability": {"id": "CVE-2", "severity": "Negligible"}, "artifact": spoilt}]})
		not r.readable
		[v.id | some v in r.found] == ["CVE-2"]
		some v in r.found
		scan.purl(v) == ""
	}
}

# It belongs to no package that a statement could absolve.
test_purl_that_is_none if {
	every purl in [null, 1, [], {}] {
		r := only({"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-1", "Severity": "LOW", "PkgIdentifier": {"PURL": purl}}]}]})
		r.readable
		as_read(r) == [["CVE-1", 2, {"CVE-1"}, ""]]
	}
}

test_unreadable if {
	every result in [
		null, true, 1, "clean", [], {}, [{"Vulnerabilities": []}], {"runs": []}, {"matches": {}}, {"matches": null}, {"Results": {}}, {"Results": "x"},
		{"SchemaVersion": 3, "Results": []}, {"SchemaVersion": "2", "Results": []}, {"SchemaVersion": 2, "Results": {}},
		{"SchemaVersion": 2, "Results": [null]}, {"SchemaVersion": 2, "Results": [[]]}, {"SchemaVersion": 2, "Results": [1]},
		{"SchemaVersion": 2, "Results": ["x"]}, {"SchemaVersion": 2, "Results": [{"Vulnerabilities": {}}]},
	] {
		r := only(result)
		not r.readable
		r.found == []
	}
}

test_predicates_without_results if {
	every predicate in [null, true, 1, "x", [], {}, {"scanner": null}, {"scanner": {}}, {"scanners": []}, {"scanners": "x"}, {"scanners": [null]}, {"metadata": 1}] {
		reports := of([predicate])
		[[r.readable, r.at] | some r in reports] == [[false, null]]
	}
}

test_several_scanners if {
	reports := of([{
		"scanners": [{"result": {"matches": []}}, {"result": {"SchemaVersion": 2}}, {}],
		"metadata": {"scanFinishedOn": "2026-06-01"},
	}])
	[[r.scanner, r.readable, r.at] | some r in reports] == [["Grype", true, null], ["Trivy", true, null], ["", false, null]]
}

test_who_attests if {
	unverified := f.unattested(vuln, "made by an unknown key")
	nobody := object.union(f.scan("2026-06-01T06:00:00Z", []), {"signer": null})
	as_specified := object.union(f.scan("2026-06-01T06:00:00Z", []), {"predicate_type": "cosign.sigstore.dev/attestation/vuln/v1"})
	other := f.attestation("https://cosign.sigstore.dev/attestation/v1", {})
	input_ := f.with_changes({"/attestations": [unverified, nobody, as_specified, other]})
	reports := scan.reports with input as input_
	[r.signer | some r in reports] == ["ci"]
	claimed := scan.claimed with input as input_
	count(claimed) == 3
}
