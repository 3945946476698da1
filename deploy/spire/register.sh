#!/usr/bin/env bash
# Registers the workloads of this project's examples with a running SPIRE server.
set -euo pipefail

# start.sh gives the agent this ID. A SPIRE of your own may have another one.
readonly PARENT_ID=${SPIRE_PARENT_ID:-spiffe://example.org/host}
# deploy/kubernetes has this namespace.
readonly NAMESPACE=spiffe-jwt-proxy

users=false
kubernetes=false

usage() {
    cat <<'USAGE'
usage: register.sh [--users] [--kubernetes]

Creates the registration entries of the examples, unless they exist. These are for the
README, the units in deploy/systemd and the Debian package:
  unix:user:server-workload -> spiffe://example.org/server (DNS name localhost)
  unix:user:proxy-workload  -> spiffe://example.org/server (DNS name localhost)
  unix:user:client-workload -> spiffe://example.org/client

  --users       also create those users that are missing; needs root
  --kubernetes  create the entries of deploy/kubernetes instead, where SPIRE has no
                controller manager: k8s:ns:spiffe-jwt-proxy and k8s:sa:NAME
                -> spiffe://example.org/ns/spiffe-jwt-proxy/sa/NAME, where NAME is
                gateway, orders or shop

Run it as a user who may use the SPIRE server's socket, on the server's machine.
SPIRE_PARENT_ID is the agent's SPIFFE ID, spiffe://example.org/host unless set. In
Kubernetes it is the ID of an entry that all agents have (spire-server entry create -node).
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

# need_user USER: creates the user with --users, and otherwise fails if it is missing.
need_user() {
    id -u "$1" >/dev/null 2>&1 && return
    $users || fail "no user $1: repeat this with --users, or create it as root with: useradd --system $1"
    useradd --system --no-create-home --shell /usr/sbin/nologin "$1"
    echo "user $1 created"
}

# register SPIFFE_ID "SELECTOR..." [OPTION...]: creates an entry for the workloads that have all selectors.
register() {
    local id=$1 selectors=$2 selector
    local entry=(-parentID "$PARENT_ID" -spiffeID "$id")
    for selector in $selectors; do
        entry+=(-selector "$selector")
    done
    shift 2
    if spire-server entry show "${entry[@]}" -matchSelectorsOn exact | grep '^Entry ID' >/dev/null; then
        echo "$selectors -> $id is registered already"
    else
        spire-server entry create "${entry[@]}" "$@" >/dev/null
        echo "$selectors -> $id registered"
    fi
}

register_users() {
    local user
    for user in server-workload proxy-workload client-workload; do
        need_user "$user"
    done
    # SPIRE puts the DNS name into the certificate, because curl verifies names and not SPIFFE IDs.
    register spiffe://example.org/server unix:user:server-workload -dns localhost
    register spiffe://example.org/server unix:user:proxy-workload -dns localhost
    register spiffe://example.org/client unix:user:client-workload
}

# register_service_account NAME [OPTION...]: creates the entry that SPIRE's controller manager would create.
register_service_account() {
    local name=$1
    shift
    register "spiffe://example.org/ns/$NAMESPACE/sa/$name" "k8s:ns:$NAMESPACE k8s:sa:$name" "$@"
}

main() {
    while (($#)); do
        case $1 in
        --users) users=true ;;
        --kubernetes) kubernetes=true ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
        esac
        shift
    done
    need_server
    if $kubernetes; then
        register_service_account gateway -dns "gateway.$NAMESPACE.svc"
        register_service_account orders
        register_service_account shop
    else
        register_users
    fi
    echo "the agent serves a new entry after about 10 seconds"
}

main "$@"
