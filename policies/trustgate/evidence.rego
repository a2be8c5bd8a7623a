# METADATA
# title: Evidence
# description: What could not be looked at is not taken for absent.
# scope: package
package trustgate.policies.evidence

import data.trustgate.lib

# METADATA
# title: All evidence was gathered
# description: >-
#   Evidence that could not be fetched or read could be the one that forbids the image. A scope or route with
#   errors: annotate makes this a warning.
# custom:
#   code: evidence.errors
#   solution: See that TrustGate reaches the registry and may read it, then pull again.
#   collections: [minimal, signed, trusted-builds, slsa3]
deny contains finding if {
	some finding in findings
	lib.errors == "block"
}

warn contains finding if {
	some finding in findings
	lib.errors == "annotate"
}

findings contains {"code": "evidence.errors", "msg": msg} if {
	lib.judged
	some e in input.errors
	msg := sprintf("could not gather all evidence: %s: %s", [e.collector, e.message])
}
