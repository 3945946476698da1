#!/usr/bin/env bash
# Runs the commands of deploy/first-steps.md, which is their only source.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly PAGE=deploy/first-steps.md DIRECTORY=/tmp/first-steps
readonly WITHIN=900 # seconds

bin=
quick=false
scratch=

usage() {
    cat <<USAGE
usage: scripts/first-steps.sh [--bin DIRECTORY] [--quick]

Runs the commands of $PAGE as they are written, and fails with the first one
that fails. Needs what that page needs, and its ports.

  --bin DIRECTORY  use the binaries there, and do not build
  --quick          raise alerts after two seconds in place of minutes
USAGE
}

# Prints the blocks of the page that are for a shell.
commands() {
    awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$PAGE"
}

# replaced TEXT BY: prints the commands on standard input with BY in place of each line that begins with TEXT. Fails if
# there is none.
replaced() {
    awk -v text="$1" -v by="$2" '
        index($0, text) == 1 { print by; found = 1; next }
        { print }
        END { exit !found }'
}

# Prints the commands with the changes that the arguments ask for.
chosen() {
    local all
    all=$(commands)
    if [[ -n $bin ]]; then
        all=$(replaced 'cargo build ' ':' <<<"$all") || fail "$PAGE has no build"
        all=$(replaced 'export PATH=' "export PATH=\"$bin:\$PATH\"" <<<"$all") || fail "$PAGE sets no PATH"
    fi
    if $quick; then
        all=$(replaced 'cp deploy/prometheus/alerts.yml ' \
            "sed 's/for: [0-9]*m/for: 2s/' deploy/prometheus/alerts.yml > $DIRECTORY/alerts.yml" <<<"$all") ||
            fail "$PAGE copies no alerts"
    fi
    printf '%s\n' "$all"
}

clean_up() {
    kill -TERM -- "-$group" 2>/dev/null || true
    wait "$group" 2>/dev/null || true
    rm -rf "$scratch" "$DIRECTORY"
}

main() {
    while (($#)); do
        case $1 in
        --bin) bin=$(cd "${2:?first-steps.sh: --bin needs a directory}" && pwd) && shift ;;
        --quick) quick=true ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
        esac
        shift
    done
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    [[ ! -e $DIRECTORY ]] || fail "$DIRECTORY exists: remove it, if nothing uses it"
    scratch=$(mktemp -d)
    chosen >"$scratch/commands"
    # The commands have a process group of their own, which this script can end as a whole.
    setsid timeout --foreground "$WITHIN" bash -veuo pipefail "$scratch/commands" &
    group=$!
    trap clean_up EXIT
    trap 'exit 130' HUP INT TERM
    wait "$group" || {
        tail -n 20 "$DIRECTORY"/*.log >&2 || true
        fail "the last command above failed"
    }
    printf '\nAs it should be: each command of %s has succeeded.\n' "$PAGE"
}

main "$@"
