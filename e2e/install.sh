#!/bin/sh
# Installs the Debian packages that the tests need (the race detector's compiler
# and the clients of the end-to-end tests), and only those that are missing.
# Safe to run again: a complete machine is left as it is.
set -eu

if ! command -v apt-get >/dev/null 2>&1; then
	echo "e2e/install.sh: this is not a Debian system (no apt-get)." >&2
	echo "Install these yourself, then run the tests again: skopeo podman buildah runc gpg git busybox (static) e2fsprogs" >&2
	exit 1
fi

packages='gcc libc6-dev openssh-client skopeo podman buildah containerd runc gnupg gpg-agent git busybox-static ca-certificates'
# Without these a few tests are skipped, and say so.
wanted='debootstrap debian-archive-keyring e2fsprogs'
missing=
extra=
for package in $wanted; do
	case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true) in
	installed) ;;
	*) extra="$extra $package" ;;
	esac
done
for package in $packages; do
	case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true) in
	installed) ;;
	*) missing="$missing $package" ;;
	esac
done

if [ -z "$missing$extra" ]; then
	echo "e2e: the system packages are all there"
	exit 0
fi

if [ "$(id -u)" = 0 ]; then
	as_root=
elif command -v sudo >/dev/null 2>&1; then
	as_root=sudo
elif [ -z "$missing" ]; then
	echo "e2e/install.sh: no$extra; some tests will be skipped" >&2
	exit 0
else
	echo "e2e/install.sh: these packages are missing:$missing" >&2
	echo "Run this script as root, or install sudo." >&2
	exit 1
fi

echo "e2e: installing$missing$extra"
# RUNLEVEL=1 keeps the packages from starting their services.
install() {
	# shellcheck disable=SC2086 # words are wanted
	$as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends "$@"
}
if [ -z "$missing" ]; then
	# shellcheck disable=SC2086 # words are wanted
	{ $as_root apt-get update -q && install $extra; } || echo "e2e/install.sh: no$extra; some tests will be skipped" >&2
	exit 0
fi
$as_root apt-get update -q
# shellcheck disable=SC2086 # words are wanted
install $missing
# shellcheck disable=SC2086 # words are wanted
[ -z "$extra" ] || install $extra || echo "e2e/install.sh: no$extra; some tests will be skipped" >&2
