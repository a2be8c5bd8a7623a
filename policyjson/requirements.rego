# METADATA
# title: policy.json
# description: What a containers/image policy.json demands of images in registries.
# scope: package
package trustgate.policies.policyjson

# METADATA
# title: policy.json lets the image in
# custom:
#   code: policyjson.reject
#   solution: policy.json rejects all images there, whoever signs them.
deny contains {"code": "policyjson.reject", "msg": msg} if {
	some requirement in requirements
	requirement.type == "reject"
	msg := sprintf("%s rejects every image", [entry])
}

# METADATA
# title: The image is signed as policy.json demands
# custom:
#   code: policyjson.signature
#   solution: Let one of the signers sign this very image under the name that policy.json demands.
deny contains {"code": "policyjson.signature", "msg": msg} if {
	some requirement in requirements
	requirement.kind != ""
	not met(requirement)
	msg := sprintf("%s demands a signature by %s that names the image as %s says", [
		entry, concat(" or ", requirement.signers), requirement.identity.type,
	])
}

requirements := [requirement |
	some scope in governing
	some requirement in scopes[scope].requirements
]

entry := concat(" ", [concat(" and ", [scopes[scope].entry | some scope in governing]), "of policy.json"])

# The most specific scope counts, and no other. Of an image in an index nobody tells which of the
# two digests was named, so that with a scope of each, both count.
#
# https://github.com/containers/image/blob/main/docs/containers-policy.json.5.md
governing := exact if {
	count(exact) > 0
} else := [[s | some s in places; scopes[s]][0]]

exact := [s | some s in array.concat([reference], of_index); scopes[s]]

default of_index := []

of_index := [concat("@", [name, input.image.index.digest])] if input.image.tag == ""

# Where the image lies beside that, the narrowest place first: its repository, what that is in, its
# host, the domains that the host is in, and anywhere.
places := array.concat(namespaces, array.concat(domains, [""]))

name := concat("/", [input.image.registry, input.image.repository])

reference := concat(":", [name, input.image.tag]) if input.image.tag != ""

reference := concat("@", [name, input.image.digest]) if input.image.tag == ""

namespaces := [concat("/", array.slice(parts, 0, n)) |
	parts := split(name, "/")
	some n in numbers.range(count(parts), 1)
]

domains := [concat(".", array.concat(["*"], array.slice(labels, n, count(labels)))) |
	labels := split(split(input.image.registry, ":")[0], ".")
	count(labels) > 1
	some n in numbers.range(1, count(labels) - 1)
]

# A signature over the image itself; one over an index that lists it does not count, as it does not
# for podman.
met(requirement) if {
	some signature in input.signatures
	signature.verified
	not signature.inherited
	signature.kind == requirement.kind
	signature.signer.name in requirement.signers
	identified(requirement.identity, normal(signature.reference))
}

identified(identity, signed) if {
	identity.type == "matchExact"
	signed == reference
}

identified(identity, signed) if {
	identity.type == "matchRepoDigestOrExact"
	exact_or_digest(name, signed)
}

identified(identity, signed) if {
	identity.type == "matchRepository"
	repository(signed) == name
}

identified(identity, signed) if {
	identity.type == "exactReference"
	signed == identity.reference
}

identified(identity, signed) if {
	identity.type == "exactRepository"
	repository(signed) == identity.repository
}

identified(identity, signed) if {
	identity.type == "remapIdentity"
	exact_or_digest(remapped(identity), signed)
}

exact_or_digest(intended, signed) if {
	input.image.tag != ""
	signed == concat(":", [intended, input.image.tag])
}

exact_or_digest(intended, signed) if {
	input.image.tag == ""
	repository(signed) == intended
	signed != intended
}

remapped(identity) := identity.signed if {
	name == identity.prefix
} else := concat("", [identity.signed, substring(name, count(identity.prefix), -1)]) if {
	startswith(name, concat("", [identity.prefix, "/"]))
} else := name

repository(text) := regex.replace(text, `(:[^:/@]+)?(@[^@]*)?$`, "")

# Docker's short names in full.
normal(text) := text if {
	hosted(text)
	not startswith(text, "index.docker.io/")
} else := concat("/", ["docker.io", normal_path(trim_prefix(text, "index.docker.io/"))])

normal_path(path) := path if {
	contains(path, "/")
} else := concat("/", ["library", path])

# The first part is a host where it could be nothing else.
hosted(text) if regex.match(`^(localhost|[^/]*[.:][^/]*)/`, text)
