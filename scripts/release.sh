#!/usr/bin/env bash
# Builds the binaries to install, optimised by a profile of their work under load.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly STEPS=4
number=0

usage() {
    cat <<'USAGE'
usage: scripts/release.sh [DIRECTORY]

Builds server, proxy, client and dev-agent for production into DIRECTORY
[default: target/dist]. They take a fifth less CPU time per request than those of
`cargo build --release`. Server, proxy and client are built with counters, run
under load for some seconds (on free ports, with an agent of their own), and built
again with the counts (profile-guided optimisation, PGO). This takes twelve minutes
on two cores. The profile is kept until the code or the compiler changes. Each step
says how long it is likely to take.

Needs llvm-profdata of the same compiler. If it is missing, runs
`rustup component add llvm-tools` first.
USAGE
}

# step TEXT: prints the number, the time and the text of the step that begins.
step() {
    number=$((number + 1))
    printf 'release.sh: step %s of %s (after %s s): %s\n' "$number" "$STEPS" "$SECONDS" "$1" >&2
}

# build DIRECTORY FLAG ARG...: runs cargo build in this target directory, with one more flag for the compiler.
# Because of --target, build scripts do not get the flag.
build() {
    local directory=$1 flags
    # The encoded form of RUSTFLAGS allows spaces in a path.
    # shellcheck disable=SC2086 # these are words
    flags=$(printf '%s\x1f' ${RUSTFLAGS-} "$2")
    shift 2
    CARGO_ENCODED_RUSTFLAGS=${flags%$'\x1f'} \
        cargo build --release --locked --target "$host" --target-dir "$directory" "$@"
}

# Runs the binaries under load, and writes their counts into the file $profile.
learn() {
    local counters=$pgo/counters
    rm -rf "$counters" "$pgo"/*.profdata
    # The counts of the load generator are dropped.
    LLVM_PROFILE_FILE=/dev/null "$counting/bench" --train
    "$profdata" merge -o "$profile" "$counters"
}

main() {
    case ${1-} in
    -h | --help) usage && exit ;;
    -*) usage >&2 && exit 2 ;;
    esac
    (($# <= 1)) || { usage >&2 && exit 2; }
    local out=${1:+$(realpath -m "$1")}
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    command -v cargo >/dev/null || fail 'cargo is missing: install Rust 1.88 or later from https://rustup.rs'
    command -v cc >/dev/null || fail 'cc is missing: install a C compiler, for example: apt-get install gcc'
    host=$(rustc -vV | sed -n 's/^host: //p')
    profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
    [[ -x $profdata ]] || rustup component add llvm-tools ||
        fail "$profdata is missing: install Rust from https://rustup.rs, then: rustup component add llvm-tools"
    local target
    target=$(target_directory)
    pgo=$target/pgo
    counting=$pgo/counting/$host/release
    step 'build the binaries with counters, about 5 minutes on two cores'
    # The binaries are built separately, so that features of the bench's dependencies do not reach them.
    build "$pgo/counting" "-Cprofile-generate=$pgo/counters" --bins
    step 'build the load that the binaries are counted under, about 2 minutes'
    build "$pgo/counting" "-Cprofile-generate=$pgo/counters" -p bench --bin bench
    # The name has a digest of these binaries, because cargo builds again only if the name changes.
    profile=$pgo/$(cat "$counting"/{server,proxy,client} | sha256sum | cut -c1-16).profdata
    if [[ -f $profile ]]; then
        step 'load the binaries: not needed, their profile is there'
    else
        step 'load the binaries and count, less than a minute'
        learn
    fi
    step 'build the binaries again with the profile, about 4 minutes'
    build "$pgo/optimised" "-Cprofile-use=$profile" --bins
    out=${out:-$target/dist}
    install -D -m 755 -t "$out" "$pgo/optimised/$host/release"/{server,proxy,client,dev-agent}
    echo "release.sh: server, proxy, client and dev-agent are in $out (after $SECONDS s)"
}

main "$@"
