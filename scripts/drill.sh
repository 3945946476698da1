#!/usr/bin/env bash
# Nothing is lost while everything changes: pulls every lever under load and counts what callers notice.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/drill.sh [--short] [--events EVENT,...] [--json] [--readme]
       scripts/drill.sh --soak REQUESTS [--json]

Builds in release mode, starts two stacks (dev-agent, two servers, a proxy before
both) on free ports, and keeps 32 kept-alive connections and 4 that reconnect for
each request on each, together at half of full speed. Half of the requests are
POSTs with bodies of 0 to 100 KiB. Meanwhile identities rotate and are withdrawn,
agents go away, processes are restarted and killed. Prints for each event: requests,
POSTs, failed, refused as wanted, POSTs lost with a killed server (which may have
acted on them), the longest that a request took.
Exit status 1 if anything failed. About three minutes after the build.

  --short   everything, each for a shorter time: under a minute
  --events  only these: new-svids, ca-rotation, jwt-rotation, jwt-key-removed,
            caller-withdrawn, federation-removed, server-withdrawn, server-restarted,
            only-server-restarted, proxy-handed-over, server-killed, killed,
            agent-stopped, agent-stalled, agent-with-new-keys, svid-expires,
            proxy-shares-port, overload, no-files-left
  --json    print JSON, for machines
  --readme  also write the table into tests/README.md

  --soak    instead: so many requests at full speed while all keys and SVIDs rotate
            without end; fails if a request does, or if memory or descriptors grow
USAGE
}

fail() {
    echo "drill.sh: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

main() {
    local argument target
    for argument in "$@"; do
        case $argument in
        -h | --help) usage && exit ;;
        esac
    done
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    need cargo 'install Rust 1.88 or later from https://rustup.rs'
    need cc 'install a C compiler, for example: apt-get install gcc'
    need prlimit 'install util-linux'
    # The binaries as everybody gets them, by themselves.
    cargo build --release --locked --bins
    cargo build --release --locked -p drill
    target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    "$target/release/drill" "$@"
}

main "$@"
