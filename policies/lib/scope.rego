# What several rules and the aggregator ask of the request and of the
# configuration.
package trustgate.lib

# Indexes are judged through their images.
judged if input.image.kind != "index"

# Findings that no chosen collection asks for need not be worked out.
asked(_) if data.trustgate.collections == []

asked(collection) if collection in data.trustgate.collections

name := concat("/", [input.image.registry, input.image.repository])

reference := concat(":", [name, input.image.tag]) if input.image.tag != ""

reference := concat("@", [name, input.image.digest]) if input.image.tag == ""

matches(patterns, repository) if {
	some pattern in patterns
	glob.match(pattern, ["/"], repository)
}

# An instant in nanoseconds. A date is the beginning of that day, in UTC.
instant(text) := time.parse_rfc3339_ns(text) if contains(text, "T")

instant(text) := time.parse_rfc3339_ns(concat("", [text, "T00:00:00Z"])) if not contains(text, "T")

now := time.parse_rfc3339_ns(input.request.time)

# An instant as evidence has it; undefined where it is none. What
# time.parse_rfc3339_ns refuses would be an error, and an error blocks.
moment(text) := time.parse_rfc3339_ns(text) if {
	is_string(text)
	regex.match(`^(19[7-9]|2[01]\d)\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`, text)
	not no_day(substring(text, 0, 4), substring(text, 5, 5))
}

no_day(_, day) if day in {"02-30", "02-31", "04-31", "06-31", "09-31", "11-31"}

no_day(year, "02-29") if not leap(year)

# Of those that a moment can have.
leap(year) if {
	to_number(year) % 4 == 0
	year != "2100"
}

# The part of the configuration that applies: the first scope of the route
# that names the repository, and the route itself for what the scope leaves out.
route := data.trustgate.config.routes[input.request.route]

default scope := {}

scope := matching[0]

matching := [s | some s in route.scopes; matches(s.repositories, input.image.repository)]

setting(key) := scope[key]

setting(key) := route[key] if not scope[key]

default mode := "enforce"

mode := chosen if {
	chosen := setting("mode")
	chosen in {"annotate", "audit"}
}

default errors := "block"

errors := "annotate" if setting("errors") == "annotate"

# At most three of the texts, and how many there are beside them.
few(texts) := concat(", ", sort(texts)) if count(texts) <= 3

few(texts) := sprintf("%s and %d more", [concat(", ", array.slice(sort(texts), 0, 3)), count(texts) - 3]) if count(texts) > 3
