// Package e2e drives the built trustgate program from outside, as people and
// clusters do: real registries hold images that BuildKit and buildah built and
// that gpg and cosign signed, and crane, skopeo, podman, containerd and oras
// pull them through the gate.
//
// Nothing here imports the program. A test speaks to it through clients, the
// command line, HTTP and, for the cache, a stock registry process; it never
// stands in for one of the real parts. Faults come from a reverse proxy before
// the real upstream, which can hold, cut, change or refuse what passes.
//
// install.sh and tools.sh bring everything the tests start. BuildKit and
// containerd need root, so without it the tests that build or run images say so
// loudly and are skipped.
package e2e
