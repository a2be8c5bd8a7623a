# METADATA
# title: Source
# description: The image was built from a repository that the configuration trusts.
# scope: package
package trustgate.policies.source

import data.trustgate.lib

# METADATA
# title: Known source
# description: Verified provenance names the source repository and revision. Labels and annotations are claims.
# custom:
#   code: source.unknown
#   solution: Build from version control with provenance that names the repository and the revision.
#   collections: [trusted-builds]
deny contains {"code": "source.unknown", "msg": msg} if {
	required
	not known
	msg := sprintf("the source is not known from verified provenance (%s)", [found])
}

# METADATA
# title: Trusted source
# description: The source repository is one of trust.sources.
# custom:
#   code: source.untrusted
#   solution: Build from a repository of trust.sources, or add this one there.
#   collections: [trusted-builds]
deny contains {"code": "source.untrusted", "msg": msg} if {
	required
	known
	not input.source.trusted
	msg := sprintf("built from %s, which is not in trust.sources", [input.source.repository])
}

required if {
	lib.judged
	not input.image.root
}

known if {
	input.source.verified
	input.source.repository != ""
	input.source.revision != ""
}

found := "nothing names it" if input.source.repository == ""

found := sprintf("%s names %s", [via, input.source.repository]) if {
	input.source.repository != ""
	not input.source.verified
}

found := sprintf("it names %s but no revision", [input.source.repository]) if {
	input.source.repository != ""
	input.source.verified
}

via := {"provenance": "unverified provenance", "annotation": "an annotation", "label": "a label"}[input.source.via]

via := "a claim" if not input.source.via in {"provenance", "annotation", "label"}
