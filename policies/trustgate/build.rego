# METADATA
# title: Build
# description: Whoever builds the same source again comes to the same image.
# scope: package
package trustgate.policies.build

import data.trustgate.lib

# METADATA
# title: Reproduced build
# description: >-
#   Independent builders agree on this digest, at least rules.reproduced.at_least of them (2 unless it says
#   otherwise), and none came to another one.
# custom:
#   code: build.reproduced
#   solution: Let another trusted builder build the image from the same source, and find out why one that disagrees does.
#   collections: [reproducible]
deny contains {"code": "build.reproduced", "msg": msg} if {
	required
	agreeing < at_least
	msg := sprintf("builders that agree on this digest: %d%s, and %d are demanded", [agreeing, names, at_least])
}

deny contains {"code": "build.reproduced", "msg": msg} if {
	required
	input.build.reproduced.disagree > 0
	msg := sprintf("builders that came to another digest: %d", [input.build.reproduced.disagree])
}

required if {
	lib.asked("reproducible")
	lib.judged
	not input.image.root
}

at_least := object.get(data.trustgate.config, ["rules", "reproduced", "at_least"], 2)

# A builder that built twice agrees with nobody but itself.
builders := {name | some name in input.build.reproduced.by}

agreeing := min([count(builders), input.build.reproduced.agree])

names := "" if count(builders) == 0

names := sprintf(" (%s)", [lib.few(builders)]) if count(builders) > 0
