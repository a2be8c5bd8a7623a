# What Conforma's rules import as data.lib, as far as every one of them needs it. It is
# loaded where the rules do not bring a library of their own.
package lib

# A finding of the rule whose chain of metadata is given. Its message is the rule's
# failure_msg with the values put in.
#
# https://conforma.dev/docs/policy/authoring.html
result_helper(chain, values) := object.union(
	{
		"code": concat(".", [chain[0].path[count(chain[0].path) - 2], own.custom.short_name]),
		"msg": sprintf(own.custom.failure_msg, values),
	},
	announced(chain),
) if {
	own := chain[0].annotations
}

result_helper_with_term(chain, values, term) := object.union(result_helper(chain, values), {"term": term})

result_helper_with_severity(chain, values, severity) := object.union(result_helper(chain, values), {"severity": severity})

# The date of the rule, or else that of its package.
announced(chain) := {"effective_on": dates[0]} if {
	dates := [link.annotations.custom.effective_on | some link in chain]
	count(dates) > 0
} else := {}
