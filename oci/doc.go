// Package oci holds the few nouns that every other package shares: references,
// digests, descriptors and manifests.
//
// It parses bytes that strangers wrote, so everything here is strict and
// bounded: a value that exists has been checked. The package never does I/O
// and never decides whether anything is trusted.
package oci
