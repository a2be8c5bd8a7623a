# METADATA
# title: Vulnerability scans
# description: >-
#   What the scans that named signers attest found, of Trivy and of Grype. Nothing here fails on results of another
#   form: those are unreadable, and never taken for clean.
# related_resources:
# - https://github.com/sigstore/cosign/blob/main/specs/COSIGN_VULN_ATTESTATION_SPEC.md
# - https://trivy.dev/latest/docs/configuration/reporting/#json
# - https://github.com/anchore/grype/blob/main/schema/grype/json/README.md
# scope: package
package trustgate.lib.scan

import data.trustgate.lib

# Cosign's specification leaves the scheme out, cosign does not.
claimed := array.concat(
	lib.attestations("https://cosign.sigstore.dev/attestation/vuln/v1"),
	lib.attestations("cosign.sigstore.dev/attestation/vuln/v1"),
)

attested := lib.vouched(claimed)

# One for each scanner of each attestation. One without results is unreadable.
reports := [report |
	some a in attested
	some result in results(a.predicate)
	report := object.union(read(result), {"at": at(a.predicate), "signer": a.signer.name})
]

at(predicate) := instant if {
	instant := lib.moment(predicate.metadata.scanFinishedOn)
} else := null

# Cosign writes one scanner, its specification has a list of them.
results(predicate) := found if {
	found := array.concat(
		[result(scanner) | scanner := predicate.scanner],
		[result(scanner) | some scanner in predicate.scanners],
	)
	count(found) > 0
} else := [null]

result(scanner) := value if {
	value := scanner.result
} else := null

read(result) := {"scanner": "Trivy", "found": found, "readable": readable} if {
	trivy(result)
	listed := [v | some target in lib.listed(result, "Results"); some v in lib.listed(target, "Vulnerabilities")]
	found := [{"id": v.VulnerabilityID, "rank": ranks[v.Severity], "of": v} | some v in listed; named(v.VulnerabilityID)]
	readable := complete(result, count(listed) - count(found))
} else := {"scanner": "Grype", "found": found, "readable": readable} if {
	is_array(result.matches)
	found := [{"id": m.vulnerability.id, "rank": ranks[m.vulnerability.severity], "of": m} | some m in result.matches; named(m.vulnerability.id)]
	readable := count(result.matches) == count(found)
} else := {"scanner": "", "found": [], "readable": false}

# A report about an image without any packages has no Results.
trivy(result) if result.SchemaVersion == 2

trivy(result) if {
	is_array(result.Results)
	not result.SchemaVersion
}

complete(result, left_out) if {
	left_out == 0
	every target in lib.members(result, "Results") {
		lib.members(target, "Vulnerabilities")
	}
} else := false

named(id) if {
	is_string(id)
	id != ""
}

# Trivy shouts, Grype does not. What nobody has weighed yet counts least; a word
# that is not here cannot be read.
ranks := {
	"UNKNOWN": 0, "Unknown": 0,
	"NEGLIGIBLE": 1, "Negligible": 1,
	"LOW": 2, "Low": 2,
	"MEDIUM": 3, "Medium": 3,
	"HIGH": 4, "High": 4,
	"CRITICAL": 5, "Critical": 5,
}

# Grype names what the advisory of a distribution or of a forge is about beside
# it.
identifiers(finding) := {upper(id) |
	some id in union({{finding.id}, {related.id | some related in finding.of.relatedVulnerabilities}})
	named(id)
}

# Of the package, as Trivy and as Grype have it.
purl(finding) := finding.of.PkgIdentifier.PURL if {
	is_string(finding.of.PkgIdentifier.PURL)
} else := finding.of.artifact.purl if {
	is_string(finding.of.artifact.purl)
} else := ""
