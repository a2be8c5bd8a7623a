# METADATA
# title: Layers
# description: Everything that the image consists of comes through the registry.
# scope: package
package trustgate.policies.layers

import data.trustgate.lib

# METADATA
# title: No foreign layers
# description: A foreign layer is fetched from somewhere else than the registry, past this gate (CVE-2020-15157).
# custom:
#   code: layers.foreign
#   solution: Push the image with all of its layers, non-distributable ones too.
#   collections: [minimal, signed, trusted-builds, slsa3]
deny contains {"code": "layers.foreign", "msg": msg} if {
	lib.judged
	foreign := {l.digest | some l in input.image.layers; l.foreign}
	count(foreign) > 0
	msg := sprintf("fetched from outside the registry: %s", [lib.few(foreign)])
}
