# METADATA
# title: Signatures
# description: An image is signed by a signer that the configuration names, for the very reference that is pulled.
# scope: package
package trustgate.policies.signature

import data.trustgate.lib

# METADATA
# title: Signed by a named signer
# description: >-
#   At least one signature over this digest, or over the index that lists it, was made by a signer of
#   trust.signers. rules.signature.signers narrows them down: a list of names, or a list of
#   {repositories, signers} of which the first that matches registry/repository counts.
#   Configured roots have met their own requirement.
# custom:
#   code: signature.missing
#   solution: Sign the image with a key of trust.signers, or name its signer there.
#   collections: [minimal, signed, trusted-builds]
deny contains {"code": "signature.missing", "msg": msg} if {
	required
	count(made) == 0
	msg := sprintf("no signature by a named signer (%s)", [found])
}

# METADATA
# title: Signed for this reference
# description: >-
#   A signature that names a repository or a tag counts for that one only. Otherwise an old or a foreign
#   image could be passed off under a trusted name.
# custom:
#   code: signature.reference
#   solution: Sign the image for the reference that is pulled, or pull it by the one that was signed.
#   collections: [minimal, signed, trusted-builds]
deny contains {"code": "signature.reference", "msg": msg} if {
	required
	count(made) > 0
	not for_this_reference
	msg := sprintf("signed by %s for %s, not for %s", [
		lib.few({s.signer.name | some s in made}),
		lib.few({s.reference | some s in made}),
		lib.reference,
	])
}

required if {
	lib.judged
	not input.image.root
}

# The signatures by those who may sign this image, whatever they name.
made := [s |
	some s in input.signatures
	s.verified
	may_sign(s.signer.name)
]

for_this_reference if {
	some s in made
	s.reference_matches == true
}

# The kind of signature names nothing but the digest.
for_this_reference if {
	some s in made
	is_null(s.reference_matches)
}

may_sign(_) if not narrowed

may_sign(name) if name in narrowed

demanded := object.get(data.trustgate.config, ["rules", "signature", "signers"], [])

narrowed := demanded if is_string(demanded[0])

narrowed := by_repository[0]

by_repository := [d.signers |
	some d in demanded
	is_object(d)
	lib.matches(d.repositories, lib.name)
]

found := "found none" if count(input.signatures) == 0

found := sprintf("found %d: %s", [count(input.signatures), lib.few({why(s) | some s in input.signatures})]) if count(input.signatures) > 0

why(s) := sprintf("made by %s, who may not sign this repository", [s.signer.name]) if s.verified

why(s) := s.error if {
	not s.verified
	s.error != ""
}

why(s) := "not made by a named signer" if {
	not s.verified
	s.error == ""
}
