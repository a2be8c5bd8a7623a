// Package policies holds the rules that TrustGate ships, the aggregator that
// turns findings into a decision, and the schema of the input that rules read.
//
// It is data: nothing here runs or decides anything. Package policy loads it.
package policies

import "embed"

// Files holds lib/ (the aggregator, always loaded), trustgate/ (the shipped
// rules) and their tests, each *_test.rego; and conforma/, which is loaded beside
// rules of Conforma's.
//
//go:embed lib trustgate conforma
var Files embed.FS

// InputSchema is the JSON schema, draft 07, of the input document. Rules are
// compiled against it, so that a misspelt member fails when they are loaded.
//
//go:embed schema/input.json
var InputSchema []byte

// ConfigSchema is the JSON schema, draft 07, of data.trustgate.config. Rules are
// compiled against what it says of the members that TrustGate knows.
//
//go:embed schema/config.json
var ConfigSchema []byte

// StyleSchemas are the JSON schemas, draft 07, of what rules of other tools take for
// the input, schema/<style>.json. Conftest's rules read the input document itself.
//
//go:embed schema/conforma.json schema/cosign.json
var StyleSchemas embed.FS
