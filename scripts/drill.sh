#!/usr/bin/env bash
# Changes everything that can change under load, and counts the requests that fail.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
usage: scripts/drill.sh [--short | --readme] [--events EVENT,...] [--json]
       scripts/drill.sh --soak REQUESTS [--json]

Builds (optimised, but not for --short), and starts two stacks (dev-agent, two servers, a proxy in front
of both) on free ports. Sends requests on 32 kept-alive connections and 4 that reconnect
for each request, on each stack, together at half of full speed. Half of the requests
are POSTs with bodies of 0 to 100 KiB. Meanwhile identities rotate and are withdrawn,
agents stop, another trust domain comes and goes, and processes are restarted and
killed. Prints for each event: requests, POSTs, failed, refused as wanted, POSTs lost
with a killed server (which may have acted on them), and the longest time of a
request.
Exits with status 1 if anything failed. Takes about three minutes after the build.

  --short   run all events for a shorter time, with the build of the tests, which takes
            a minute; the bounds of times are wider
  --events  run only these: new-svids, ca-rotation, jwt-rotation, jwt-key-removed,
            caller-withdrawn, federation-removed, federated-keys,
            federation-ended, server-withdrawn, server-restarted,
            only-server-restarted, proxy-handed-over, server-killed, killed,
            bundle-endpoints-gone, agent-stopped, agent-stalled,
            agent-with-new-keys, svid-expires, proxy-shares-port, overload,
            no-files-left
  --json    print JSON
  --readme  also write the table into tests/README.md

  --soak    instead send this many requests at full speed while all keys and SVIDs
            rotate continuously; fails if a request does, or if memory or descriptors
            grow
USAGE
}

main() {
    local argument target profile=release
    for argument in "$@"; do
        case $argument in
        -h | --help) usage && exit ;;
        --short) profile=debug ;;
        esac
    done
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    need cargo 'install Rust 1.88 or later from https://rustup.rs'
    need cc 'install a C compiler, for example: apt-get install gcc'
    need prlimit 'install util-linux'
    # The binaries are built separately, so that features of the drill's dependencies do not reach them.
    case $profile in
    release)
        cargo build --release --locked --bins
        cargo build --release --locked -p drill
        ;;
    debug)
        cargo build --locked --workspace --exclude bench --exclude drill --bins
        cargo build --locked --workspace --bin drill
        ;;
    esac
    target=$(target_directory)
    BINARIES=$target/$profile "$target/$profile/drill" "$@"
}

main "$@"
