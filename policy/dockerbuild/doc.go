// Package dockerbuild asks Docker's build policies about images that are pulled.
//
// A build policy is Rego in the package docker. Buildx asks it about each
// source of a build before the build may use it, and lets it read fields that
// it resolves on the way. Here the same file is asked about the same things
// when the result is pulled: what is known by then is in the input, and what is
// not is unknown to the evaluator.
//
// The package must never let an unknown decide: a policy is evaluated
// partially first, and a decision in which anything unknown is left is a
// denial that names it. It reads the files of the policies when they are
// loaded, and nothing after that.
//
// https://docs.docker.com/build/policies/ and
// https://github.com/docker/buildx/blob/v0.38.2/policy/types.go
package dockerbuild
