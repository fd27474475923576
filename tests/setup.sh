#!/bin/sh
# Installs what is missing for the named purposes (build, test, bench): Debian packages as root, otherwise it prints the
# line that does; Python peers go to target/peers. Run again, it does nothing.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
packages=

need() { # package, command
    command -v "$2" >/dev/null 2>&1 || packages="$packages $1"
}

for purpose in "$@"; do
    case "$purpose" in
    build)
        need build-essential cc
        need cmake cmake
        need pkg-config pkg-config
        ;;
    test)
        need curl curl
        need nghttp2-client h2load
        need python3 python3
        python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || packages="$packages python3-venv"
        ;;
    bench)
        need wrk wrk
        need nghttp2-client h2load
        ;;
    *)
        echo "setup.sh: unknown purpose $purpose" >&2
        exit 64
        ;;
    esac
done

if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ]; then
        echo "installing:$packages" >&2
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086 # a list of names
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >&2
    else
        echo "missing programs; install them with:" >&2
        echo "  sudo apt-get install -y$packages" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing; install Rust (rustup) first" >&2
    exit 1
fi

case " $* " in
*" test "*)
    peers=$root/target/peers
    if ! cmp -s "$root/tests/peers/requirements.txt" "$peers/requirements.txt"; then
        rm -rf "$peers"
        mkdir -p "$root/target"
        python3 -m venv "$peers"
        "$peers/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/tests/peers/requirements.txt"
        cp "$root/tests/peers/requirements.txt" "$peers/requirements.txt"
    fi
    ;;
esac
