// Package policy judges: it loads Rego, gives it the input document and reads
// the decision.
//
// Teams write packages below trustgate.policies, each with the sets deny and
// warn; the aggregator that TrustGate ships makes one decision of what they
// say. Rules are compiled against the schema of the input, and only those are
// loaded whose findings the aggregator is sure to see.
//
// The package never weakens: whatever goes wrong, in loading, evaluating or
// reading a decision, ends in an error or in a block. It reads policy files
// and nothing else, and rules reach no network unless they are allowed to.
package policy
