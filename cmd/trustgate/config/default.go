package config

import _ "embed" // of the commented default

//go:embed default.yaml
var defaultYAML []byte

// DefaultYAML is Default as a commented file, to start one's own from.
func DefaultYAML() []byte { return defaultYAML }
