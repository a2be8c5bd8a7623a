// Package policies holds the rules that TrustGate ships, the aggregator that
// turns findings into a decision, and the schema of the input that rules read.
//
// It is data: nothing here runs or decides anything. Package policy loads it.
package policies

import "embed"

// Files holds lib/ (the aggregator, always loaded), trustgate/ (the shipped
// rules) and their tests, each *_test.rego.
//
//go:embed lib trustgate
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
