# METADATA
# title: SBOM
# description: It is known what the image consists of.
# scope: package
package trustgate.policies.sbom

import data.trustgate.lib

# METADATA
# title: Signed SBOM
# description: >-
#   An SPDX or CycloneDX document about this digest, or about the index that lists it, is attested by a named
#   signer.
# custom:
#   code: sbom.missing
#   solution: Let the build attest an SBOM (cosign attest --type spdxjson or cyclonedx) and sign it with a key of trust.signers.
#   collections: [vulnerabilities]
deny contains {"code": "sbom.missing", "msg": msg} if {
	required
	count([a | some a in lib.vouched(documents); holds_something(a.predicate)]) == 0
	msg := sprintf("no SBOM by a named signer (%s)", [lib.found(documents)])
}

required if {
	lib.asked("vulnerabilities")
	lib.judged
	not input.image.root
}

documents := array.concat(lib.attestations("https://spdx.dev/Document"), lib.attestations("https://cyclonedx.org/bom"))

holds_something(predicate) if {
	is_object(predicate)
	count(predicate) > 0
}

# SPDX in its own notation: cosign attests it as text.
holds_something(predicate) if {
	is_string(predicate)
	trim_space(predicate) != ""
}
