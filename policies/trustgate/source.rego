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
#   collections: [trusted-builds, slsa3]
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

# METADATA
# title: Released by a signed tag
# description: >-
#   The revision that verified provenance names is released by a git tag which a signer of trust.signers made.
#   rules.source_tag.signers narrows them down to a list of names.
# custom:
#   code: source.tag
#   solution: Release from a git tag that is signed with a key of trust.signers, or name its signer there.
#   collections: [release-signed]
deny contains {"code": "source.tag", "msg": unreleased} if {
	lib.asked("release-signed")
	required
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

# A tag tells about a revision; that the image comes from it, only verified
# provenance does.
unreleased := "no tag can vouch for it: no verified provenance names the revision" if {
	not known
} else := sprintf("no git tag releases the revision %s", [input.source.revision]) if {
	is_null(input.source.tag)
} else := sprintf("the git tag %s is not signed by a named signer (%s)", [input.source.tag.name, untrusted_tag]) if {
	not released_by
} else := sprintf("the git tag %s is signed by %s, who may not release", [input.source.tag.name, released_by]) if {
	not may_release(released_by)
}

released_by := input.source.tag.signer.name if input.source.tag.verified

untrusted_tag := input.source.tag.error if {
	input.source.tag.error != ""
} else := "its signature is by nobody known"

releasers := object.get(data.trustgate.config, ["rules", "source_tag", "signers"], [])

may_release(_) if releasers == []

may_release(name) if name in releasers
