#!/usr/bin/env bash
# Registers this project's two workloads with a running SPIRE server.
set -euo pipefail

# What start.sh gives the agent; a server of your own may have another.
readonly PARENT_ID=${SPIRE_PARENT_ID:-spiffe://example.org/host}

usage() {
    cat <<'USAGE'
usage: register.sh [--help]

Creates the registration entries of the example, unless they exist:
  unix:user:server-workload -> spiffe://example.org/server (DNS name localhost)
  unix:user:client-workload -> spiffe://example.org/client
Run it as a user who may use the SPIRE server's socket, on the server's machine.
SPIRE_PARENT_ID is the agent's SPIFFE ID, spiffe://example.org/host unless set.
USAGE
}

fail() {
    echo "register.sh: $*" >&2
    exit 1
}

need_server() {
    command -v spire-server >/dev/null ||
        fail "spire-server is not in PATH: get SPIRE from https://spiffe.io/downloads/ and add its bin directory to PATH"
    spire-server healthcheck >/dev/null 2>&1 ||
        fail "no healthy SPIRE server answers: start one with $(dirname "${BASH_SOURCE[0]}")/start.sh in another terminal"
}

need_user() {
    id -u "$1" >/dev/null 2>&1 ||
        fail "no user $1: create it as root with: useradd --system $1"
}

# register USER SPIFFE_ID [OPTION...]: an entry for every process of USER.
register() {
    local selector=unix:user:$1 id=$2
    local entry=(-parentID "$PARENT_ID" -spiffeID "$id" -selector "$selector")
    shift 2
    if spire-server entry show "${entry[@]}" -matchSelectorsOn exact | grep '^Entry ID' >/dev/null; then
        echo "$selector -> $id is registered already"
    else
        spire-server entry create "${entry[@]}" "$@" >/dev/null
        echo "$selector -> $id registered"
    fi
}

main() {
    case ${1-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    need_server
    need_user server-workload
    need_user client-workload
    # SPIRE makes the DNS name part of the certificate: curl checks names, not SPIFFE IDs.
    register server-workload spiffe://example.org/server -dns localhost
    register client-workload spiffe://example.org/client
    echo "the agent serves a new entry after about 10 seconds"
}

main "$@"
