# METADATA
# title: OpenVEX
# description: >-
#   What the OpenVEX documents that named signers attest say about this image. Nothing here fails on a document of
#   another form: that one is unreadable, and absolves nothing.
# related_resources:
# - https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md
# - https://github.com/openvex/spec/blob/main/ATTESTING.md
# scope: package
package trustgate.lib.openvex

import data.trustgate.lib

attested := lib.vouched(lib.attestations("https://openvex.dev/ns"))

unreadable := [a | some a in attested; not readable(a.predicate)]

readable(document) if {
	is_array(document.statements)
	every statement in document.statements {
		complete(document, statement)
	}
}

complete(document, statement) if {
	is_object(statement)
	statement.status in (harmless | {"affected", "under_investigation"})
	count(identifiers(statement)) > 0
	is_number(said_at(document, statement))
	every product in lib.members(statement, "products") {
		count(names(product)) > 0
		every component in components(product) {
			count(names(component)) > 0
		}
	}
}

components(product) := [] if {
	is_string(product)
} else := lib.members(product, "subcomponents")

harmless := {"not_affected", "fixed"}

# The statements about this image, and those that could be.
statements := [s |
	some a in attested
	some statement in a.predicate.statements
	is_object(statement)
	products := lib.listed(statement, "products")
	not elsewhere(products)
	absolves := absolving(a.predicate, statement, products)
	s := {
		"vulnerability": vulnerability(statement),
		"identifiers": identifiers(statement),
		"status": object.get(statement, "status", ""),
		"at": when(a.predicate, statement),
		"within": within([p | some p in products; concerned(p, absolves)]),
		"absolves": absolves,
	}
]

by_identifier[identifier] contains s if {
	some s in statements
	some identifier in s.identifiers
}

# The vulnerabilities of which one says that the image is affected, and no later
# one that it is not.
affected := {s.vulnerability |
	some s in statements
	s.status == "affected"
	not answered(s)
}

answered(s) if {
	is_number(s.at)
	some identifier in s.identifiers
	some later in by_identifier[identifier]
	later.absolves
	later.at > s.at
	spans(later.within, s.within)
}

# Whether what a scanner found is no concern: a statement absolves the image, or
# this package in it, and none of the same time or later disagrees.
absolved(found, purl) if {
	some identifier in found
	some s in by_identifier[identifier]
	s.absolves
	includes(s.within, unqualified(canonical(purl)))
	not disputed(s)
}

disputed(s) if {
	some identifier in s.identifiers
	some other in by_identifier[identifier]
	not other.status in harmless
	overlap(s.within, other.within)
	not earlier(other.at, s.at)
}

earlier(at, than) if {
	is_number(at)
	at < than
}

# Who absolves must say all of it, and name this image. A statement without
# products is about the subject of its attestation.
absolving(document, statement, products) if {
	statement.status in harmless
	complete(document, statement)
	ours(products)
} else := false

ours([])

ours(products) if {
	some product in products
	names_image(product)
}

elsewhere(products) if {
	count(products) > 0
	every product in products {
		names_another(product)
	}
}

# What a statement says of another image, or of one that cannot be told from
# this, must not absolve; what could be this one forbids.
concerned(product, true) if names_image(product)

concerned(product, false) if not names_another(product)

# The packages that a statement is limited to; none when it is about the whole
# image.
within(products) := set() if {
	some product in products
	count(lib.listed(product, "subcomponents")) == 0
} else := {unqualified(name) |
	some product in products
	some component in product.subcomponents
	some name in names(component)
}

# A digest says it best. Only where there is none, a name does.
names_image(product) if {
	some name in names(product)
	has_our_digest(name)
	not other_architecture(name)
}

names_image(product) if {
	not has_some_digest(product)
	some name in names(product)
	image_name(name)
	not other_architecture(name)
}

names_another(product) if {
	has_some_digest(product)
	every name in names(product) {
		not has_our_digest(name)
	}
}

# A package inside of the image is not what the attestation is about.
names_another(product) if {
	some name in names(product)
	startswith(name, "pkg:")
	not regex.match(`^pkg:(oci|docker|generic)/`, name)
	not names_image(product)
}

has_our_digest(name) if {
	some digest in digests
	contains(name, digest)
}

has_some_digest(product) if {
	some name in names(product)
	regex.match(`[0-9a-f]{64}`, name)
}

digests := {hex |
	some digest in ({input.image.digest} | {of | of := input.image.index.digest})
	hex := split(digest, ":")[1]
	count(hex) >= 64
}

image_name(name) if name in {canonical(n) | some n in [lib.name, lib.reference, input.image.reference]}

# https://github.com/package-url/purl-spec/blob/main/types-doc/oci-definition.md
image_name(name) if {
	folders := split(input.image.repository, "/")
	unqualified(name) == canonical(concat("", ["pkg:oci/", folders[count(folders) - 1]]))
	every url in qualifiers(name, "repository_url") {
		url == canonical(lib.name)
	}
}

other_architecture(name) if {
	some architecture in qualifiers(name, "arch")
	not architecture == split(input.image.platform, "/")[1]
}

# Everything that a product or a subcomponent is known by. Before v0.2.0 it was
# a text.
names(component) := {canonical(component)} if {
	lib.worded(component)
} else := {canonical(text) |
	some text in union({
		{id | id := component["@id"]},
		{id | some id in component.identifiers},
		{hash | hash := component.hashes["sha-256"]},
	})
	lib.worded(text)
}

# In capitals, as scanners write them.
identifiers(statement) := {upper(statement.vulnerability)} if {
	lib.worded(statement.vulnerability)
} else := {upper(text) |
	some text in union({
		{name | name := statement.vulnerability.name},
		{alias | some alias in statement.vulnerability.aliases},
		{last | last := last_step(statement.vulnerability["@id"])},
	})
	lib.worded(text)
}

last_step(iri) := steps[count(steps) - 1] if {
	is_string(iri)
	steps := split(iri, "/")
}

vulnerability(statement) := statement.vulnerability if {
	lib.worded(statement.vulnerability)
} else := statement.vulnerability.name if {
	lib.worded(statement.vulnerability.name)
} else := sorted[0] if {
	sorted := sort(identifiers(statement))
} else := "a vulnerability without a name"

# A statement's own time counts before that of its document.
said_at(document, statement) := lib.moment(object.get(statement, "timestamp", object.get(document, "timestamp", null)))

when(document, statement) := instant if {
	instant := said_at(document, statement)
} else := null

# Percent signs and capitals as most write purls.
canonical(text) := strings.replace_n({"%2f": "/", "%3a": ":", "%40": "@", "%2b": "+", "%7e": "~", "index.docker.io/": "docker.io/"}, lower(text))

unqualified(purl) := split(split(purl, "?")[0], "#")[0]

qualifiers(purl, key) := {value |
	some pair in split(split(split(purl, "?")[1], "#")[0], "&")
	startswith(pair, concat("", [key, "="]))
	value := substring(pair, count(key) + 1, -1)
}

# A purl without its version stands for all of them.
unversioned(purl) := regex.replace(purl, `@[^@/]*$`, "")

includes(within, _) if count(within) == 0

includes(within, purl) if purl in within

includes(within, purl) if unversioned(purl) in within

spans(wide, _) if count(wide) == 0

spans(wide, narrow) if {
	count(narrow) > 0
	every purl in narrow {
		includes(wide, purl)
	}
}

overlap(a, b) if count(a) * count(b) == 0

overlap(a, b) if {
	some purl in a
	some other in b
	unversioned(purl) == unversioned(other)
}
