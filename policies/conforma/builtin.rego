# What Conforma asks of every image before it asks the rules. Without it a rule about
# attestations would have nothing to say where there are none.
package trustgate.policies["conforma.builtin"]

# METADATA
# title: Image signature check passed
# description: Someone whom trust.signers names signed the image.
# custom:
#   code: builtin.image.signature_check
#   solution: Sign the image with a key that trust.signers names.
deny contains {"code": "builtin.image.signature_check", "msg": msg} if {
	asked
	count(data.trustgate.lib.styles.conforma.image.signatures) == 0
	msg := "Image signature check failed: no signature by a named signer"
}

# METADATA
# title: Attestation signature check passed
# description: Someone whom trust.signers names attested something about the image.
# custom:
#   code: builtin.attestation.signature_check
#   solution: Attest how the image was built, with a key that trust.signers names.
deny contains {"code": "builtin.attestation.signature_check", "msg": msg} if {
	asked
	count(data.trustgate.lib.styles.conforma.attestations) == 0
	msg := "Image attestation check failed: no attestation by a named signer"
}

# Some set of Conforma's rules is for this image.
asked if {
	not input.image.root
	some patterns in data.trustgate.conforma
	data.trustgate.lib.matches(patterns, data.trustgate.lib.name)
}
