#!/bin/sh
# Builds the programs that the end-to-end tests drive into e2e/.cache/bin, at
# the versions that the go.mod files beside and below this script pin. A module
# whose pins, sources and Go version did not change is not built again.
set -eu

cd "$(dirname "$0")"
here=$(pwd)
bin=$here/.cache/bin
mkdir -p "$bin"
export CGO_ENABLED=0 GOFLAGS=-trimpath GOWORK=off

# build MODULE_FOLDER BUILD_TAGS PACKAGE PROGRAM...
build() {
	folder=$1 tags=$2 package=$3
	shift 3
	name=$(echo "$folder" | tr '/.' '__')
	stamp=$here/.cache/$name.stamp
	wanted=$(cd "$folder" && { go version; echo "$tags"; cat go.mod go.sum; cat main.go 2>/dev/null || true; } | sha256sum)
	complete=yes
	for program in "$@"; do
		[ -x "$bin/$program" ] || complete=no
	done
	if [ "$complete" = yes ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
		echo "e2e: up to date: $*"
		return
	fi
	echo "e2e: building $*"
	rm -f "$stamp"
	(cd "$folder" && go build -ldflags='-s -w' -tags "$tags" -o "$bin/" "$package")
	for program in "$@"; do
		[ -x "$bin/$program" ] || { echo "e2e/tools.sh: building $folder gave no $program" >&2; exit 1; }
	done
	echo "$wanted" >"$stamp"
}

build . '' tool registry crane cosign oras
# buildkit's go.mod has exclude directives, and shares most of what it needs with containerd.
build tools/buildkit '' tool buildkitd buildctl containerd ctr
build tools/buildx '' tool buildx
# The conformance suite wants its own, older requirements.
build tools/conformance '' tool conformance
build tools/imagecopy containers_image_openpgp . imagecopy
