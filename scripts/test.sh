#!/usr/bin/env bash
# Runs every test of the workspace and prints totals. CI runs exactly this.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
usage: scripts/test.sh [--help]

Builds all binaries, as scripts/demo.sh does, then runs unit tests, doc tests and the
whole-path tests, which start those binaries as real processes. The first build takes
about four minutes on two cores. Some tests need root, Go, Python with pip, curl,
nginx, Chromium, Prometheus or systemd, and are skipped without it: tests/README.md
has the list.
USAGE
}

# run ARG...: runs cargo test, and copies its output into the file $log. It is not quiet, because the names of the tests
# are a part of the result. Colours would hide the totals.
run() {
    cargo test --workspace --locked --no-fail-fast --color never "$@" 2>&1 | tee -a "$log" || status=$?
}

main() {
    case ${1-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    need cargo 'install Rust 1.88 or later from https://rustup.rs'
    local log status=0
    log=$(mktemp)
    # shellcheck disable=SC2064 # the path is fixed now
    trap "rm -f '$log'" EXIT
    cargo build --workspace --exclude bench --exclude drill --bins --locked
    # Most tests wait for processes and timers. Those of `limits` also keep the cores busy. On two cores they take 153 s
    # with three threads and 207 s with two (RUST_TEST_THREADS, cargo test --workspace --test 'li*').
    RUST_TEST_THREADS=$((3 * $(nproc))) run --lib --bins --test '[!l]*' --test 'l[!i]*'
    RUST_TEST_THREADS=$(($(nproc) + 1)) run --test 'li*'
    run --doc
    # A test that can't run here passes with a line that says so, and is counted as skipped.
    awk '/skipped: / { skipped++; print }
        /^test .* \.\.\. ignored/ { print }
        /^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped, %d ignored\n", passed - skipped, failed, skipped, ignored }' "$log"
    exit "$status"
}

main "$@"
