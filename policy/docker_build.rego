# METADATA
# title: Docker's build policies
# description: The files of policy.docker_build, asked about the image and about what went into it.
# scope: package
package trustgate.policies.docker_build

objections := trustgate.docker_build({
	"image": input.image,
	"signatures": input.signatures,
	"attestations": input.attestations,
	"build": input.build,
	"source": input.source,
	"parents": input.parents,
	"errors": input.errors,
})

# METADATA
# title: Allowed by Docker's build policies
# description: Every build policy of policy.docker_build allows the image, each image, git repository and download that its provenance lists, and its parents.
# custom:
#   code: docker_build.denied
#   solution: Build the image from what the build policy allows, or change the policy.
deny contains objection if {
	some objection in objections
	objection.code == "docker_build.denied"
}

# METADATA
# title: Build policies can decide
# description: >-
#   No decision of a build policy rests on what only the build itself could know, such as its arguments.
#   docs/policy.md lists these fields.
# custom:
#   code: docker_build.unknown
#   solution: Let the build policy decide without that field, or except the image.
deny contains objection if {
	some objection in objections
	objection.code == "docker_build.unknown"
}
