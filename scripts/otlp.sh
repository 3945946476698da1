#!/usr/bin/env bash
# Builds the binaries with the feature otlp and tests the export of spans. scripts/test.sh runs the tests of the crate
# otlp itself.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
usage: scripts/otlp.sh [--help]

Builds server, proxy and client with the feature otlp into target/otlp, and runs
tests/traces with them. The binaries in target/debug are those without the feature
again at the end.
USAGE
}

readonly FEATURES=server/otlp,proxy/otlp,client/otlp

# The packages are those of scripts/test.sh, so that all dependencies are compiled already.
build() {
    cargo build --workspace --exclude bench --exclude drill --bins --locked "$@"
}

main() {
    case ${1-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    local target binary
    target=$(target_directory)
    build --features "$FEATURES"
    mkdir -p "$target/otlp"
    for binary in server proxy client dev-agent; do
        cp --force "$target/debug/$binary" "$target/otlp/"
    done
    build
    BINARIES=$target/otlp cargo test --locked -p tests --test traces -- --ignored
}

main "$@"
