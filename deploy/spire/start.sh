#!/usr/bin/env bash
# Starts a SPIRE server and agent for trying this project on one machine.
set -euo pipefail

readonly AGENT_ID=spiffe://example.org/host
readonly AGENT_SOCKET=/tmp/agent.sock
readonly HEALTHY_WITHIN=30 # seconds

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
server_pid=
agent_pid=

usage() {
    cat <<USAGE
usage: start.sh [--help]

Starts a SPIRE server and agent (trust domain example.org) and stays in the
foreground; Ctrl-C ends both. The Workload API is at unix://$AGENT_SOCKET.
Data and logs go to .data in the current directory; delete it to start afresh.
Then, in another terminal: $here/register.sh
USAGE
}

fail() {
    echo "start.sh: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null ||
        fail "$1 is not in PATH: get SPIRE from https://spiffe.io/downloads/ and add its bin directory to PATH"
}

# wait_healthy NAME PID COMMAND...: polls SPIRE's own health check.
wait_healthy() {
    local name=$1 pid=$2 deadline=$((SECONDS + HEALTHY_WITHIN))
    shift 2
    until "$@" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || fail "the $name ended; the end of .data/$name.log says why:
$(tail -n 5 ".data/$name.log")"
        ((SECONDS < deadline)) || fail "the $name is not healthy after $HEALTHY_WITHIN s; see .data/$name.log"
        sleep 0.2
    done
    echo "$name is healthy"
}

start_server() {
    spire-server run -config "$here/server.conf" >>.data/server.log 2>&1 &
    server_pid=$!
    wait_healthy server "$server_pid" spire-server healthcheck
}

start_agent() {
    local token
    spire-server bundle show >.data/bootstrap.pem
    token=$(spire-server token generate -spiffeID "$AGENT_ID")
    # Attest anew: the SVID and bundle of an earlier start may have expired.
    rm -rf .data/agent
    spire-agent run -config "$here/agent.conf" -joinToken "${token#Token: }" >>.data/agent.log 2>&1 &
    agent_pid=$!
    wait_healthy agent "$agent_pid" spire-agent healthcheck -socketPath "$AGENT_SOCKET"
}

# shellcheck disable=SC2317 # main's trap calls it
stop() {
    local pid
    for pid in $agent_pid $server_pid; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    # Only an agent that was killed leaves its socket behind.
    [[ -z $agent_pid ]] || rm -f "$AGENT_SOCKET"
}

main() {
    case ${1-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    need spire-server
    need spire-agent
    ! spire-server healthcheck >/dev/null 2>&1 || fail "a SPIRE server is running already: end it first"
    # An agent would silently take the socket over from whatever serves it.
    [[ ! -e $AGENT_SOCKET ]] || fail "$AGENT_SOCKET exists: end what serves it; if nothing does, rm $AGENT_SOCKET"

    (umask 077 && mkdir -p .data)
    trap stop EXIT
    trap 'exit 0' INT TERM
    start_server
    start_agent
    echo "Workload API at unix://$AGENT_SOCKET; next, in another terminal: $here/register.sh"
    wait -n "$server_pid" "$agent_pid" || true
    fail "the server or the agent ended by itself; see .data/server.log and .data/agent.log"
}

main "$@"
