# METADATA
# title: Provenance
# description: A builder that the configuration trusts vouches for how the image was built.
# scope: package
package trustgate.policies.provenance

import data.trustgate.lib

# METADATA
# title: Verified provenance
# description: SLSA provenance about this digest, or about the index that lists it, is signed by a named signer.
# custom:
#   code: provenance.missing
#   solution: Let the build attest SLSA provenance and sign it with a key of trust.signers.
#   collections: [trusted-builds, slsa3]
deny contains {"code": "provenance.missing", "msg": msg} if {
	required
	not input.build.verified
	msg := sprintf("no provenance by a named signer (%s)", [lib.found(lib.attestations("https://slsa.dev/provenance"))])
}

# METADATA
# title: Trusted builder
# description: The provenance names a builder of trust.builders, and its signer is one who may speak for that builder.
# custom:
#   code: provenance.builder
#   solution: Build the image with a builder of trust.builders, or add this builder and its signers there.
#   collections: [trusted-builds, slsa3]
deny contains {"code": "provenance.builder", "msg": msg} if {
	required
	input.build.verified
	not input.build.trusted
	msg := sprintf("%s, and no entry of trust.builders lets %s vouch for that", [builder, signer])
}

required if {
	lib.judged
	not input.image.root
}

builder := "the provenance names no builder" if input.build.builder_id == ""

builder := sprintf("built by %s", [input.build.builder_id]) if input.build.builder_id != ""

default signer := "its signer"

signer := input.build.signer.name
