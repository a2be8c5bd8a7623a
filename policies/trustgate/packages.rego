# METADATA
# title: Packages
# description: The image's files are those that its distribution's packages brought.
# scope: package
package trustgate.policies.packages

import data.trustgate.lib

# METADATA
# title: Untouched packages
# description: >-
#   Every packaged file is there and is what its package brought. Configuration files may differ.
# custom:
#   code: packages.modified
#   solution: Build the image anew from untouched packages; change files by installing another package.
#   collections: [packages]
deny contains {"code": "packages.modified", "msg": msg} if {
	required
	some what, files in {"changed": input.packages.modified, "removed": input.packages.missing}
	count(files) > 0
	msg := sprintf("files of %s were %s: %s", [whose, what, lib.few(files)])
}

# METADATA
# title: Untouched packages of the parents
# description: >-
#   No layer replaces a file of a package that a parent brought. The package databases cannot tell: whoever
#   replaces a file can have them say so too.
# custom:
#   code: packages.replaced
#   solution: Build the image without writing over files of its parent's packages.
#   collections: [packages]
deny contains {"code": "packages.replaced", "msg": msg} if {
	required
	count(input.packages.replaced) > 0
	msg := sprintf("a layer replaced files of the parents' packages: %s", [lib.few(input.packages.replaced)])
}

# METADATA
# title: No stray setuid executables
# description: Every executable that has more rights than who calls it (setuid, setgid, file capabilities) belongs to a package.
# custom:
#   code: packages.setuid
#   solution: Remove the executable, take its setuid and setgid bits and its capabilities away, or install it by a package.
#   collections: [packages]
deny contains {"code": "packages.setuid", "msg": msg} if {
	required
	count(input.packages.unowned_setuid) > 0
	msg := sprintf("more rights than their callers have, and of no package: %s", [lib.few(input.packages.unowned_setuid)])
}

# METADATA
# title: Packages were examined
# description: >-
#   The image's files could be compared with its packages. What was not looked at is not taken for untouched.
# custom:
#   code: packages.failed
#   solution: See in the log why the image could not be examined, then pull again.
#   collections: [packages]
deny contains {"code": "packages.failed", "msg": msg} if {
	required
	some msg in unexamined
}

# METADATA
# title: Packages are being examined
# description: >-
#   Comparing all files takes longer than a pull, and the first pull starts it. What that pull gets is for
#   rules.packages.pending to say: annotate (unless it says otherwise), block or ignore.
# custom:
#   code: packages.pending
#   solution: Pull again in a few minutes.
#   collections: [packages]
warn contains finding if {
	some finding in awaited
	pending == "annotate"
}

deny contains finding if {
	some finding in awaited
	pending == "block"
}

awaited contains {"code": "packages.pending", "msg": "its packages are not examined yet"} if {
	required
	input.packages.state == "pending"
}

pending := object.get(data.trustgate.config, ["rules", "packages", "pending"], "annotate")

# Only images consist of files, and trust ends at a root.
required if {
	lib.asked("packages")
	input.image.kind == "image"
	not input.image.root
}

unexamined contains "its packages were not examined" if is_null(input.packages)

unexamined contains sprintf("its packages could not be examined: %s", [failure]) if {
	not input.packages.state in {"pending", "done"}
}

failure := input.packages.error if {
	input.packages.error != ""
} else := sprintf("the examination is %q", [input.packages.state])

whose := "its packages" if input.packages.distribution == ""

whose := sprintf("the packages of %s", [input.packages.distribution]) if input.packages.distribution != ""
