#!/bin/sh
# Makes a real Debian, as base images are made, into e2e/.cache/debian.tar, from
# the mirror that this machine's apt uses. It is made once.
set -eu

suite=bookworm
cd "$(dirname "$0")"
archive=.cache/debian.tar

if [ -f "$archive" ]; then
	echo "e2e: up to date: $archive"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "e2e/debian.sh: debootstrap needs root; the tests on a Debian image will be skipped." >&2
	exit 0
fi

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Suite: $suite" 2>/dev/null | head -n 1)
proxy=
eval "$(apt-config shell proxy Acquire::http::Proxy)"
if [ -n "$proxy" ]; then
	export http_proxy="$proxy"
fi
mkdir -p .cache
root=$(mktemp -d .cache/debian.XXXXXX)
trap 'rm -rf "$root"' EXIT
echo "e2e: making a Debian by debootstrap, which takes a minute"
if ! debootstrap --variant=minbase "$suite" "$root" "${mirror:-http://deb.debian.org/debian}" >.cache/debian.log 2>&1; then
	tail -n 20 .cache/debian.log >&2
	echo "e2e/debian.sh: there is no Debian; the tests on one will be skipped." >&2
	exit 0
fi
rm -f "$root"/var/cache/apt/archives/*.deb
tar -C "$root" --numeric-owner --sort=name --exclude='./dev/*' -cf "$archive.new" .
mv "$archive.new" "$archive"
