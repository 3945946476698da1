#!/usr/bin/env bash
# Starts a SPIRE server and agent for trying this project on one machine.
set -euo pipefail

readonly HEALTHY_WITHIN=30 # seconds

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
server_pid=
agent_pid=
next=

usage() {
    cat <<USAGE
usage: start.sh [--agent-socket PATH] [example.org|example.com]

Starts a SPIRE server and agent of a trust domain, example.org by default, and
stays in the foreground; Ctrl-C ends both. The second trust domain is there to be
federated with the first, which deploy/federation.md describes.

               Workload API                server's socket                         data and logs
  example.org  unix:///tmp/agent.sock      /tmp/spire-server/private/api.sock      .data
  example.com  unix:///tmp/agent-com.sock  /tmp/spire-server-com/private/api.sock  .data/com

Data and logs are below the current directory; delete them to start with nothing.
Then, in another terminal: $here/register.sh for example.org

  --agent-socket  serve the Workload API here instead. The units of deploy/systemd
                  look for it at /run/spire/agent/api.sock
USAGE
}

# set_domain TRUST_DOMAIN: exports the variables of server.conf and agent.conf.
set_domain() {
    case $1 in
    example.org)
        export SERVER_PORT=8081 BUNDLE_PORT=8082 DATA=.data
        export SERVER_SOCKET=/tmp/spire-server/private/api.sock AGENT_SOCKET=/tmp/agent.sock
        next="next, in another terminal: $here/register.sh --users"
        ;;
    example.com)
        export SERVER_PORT=8091 BUNDLE_PORT=8092 DATA=.data/com
        export SERVER_SOCKET=/tmp/spire-server-com/private/api.sock AGENT_SOCKET=/tmp/agent-com.sock
        next='next: deploy/federation.md'
        ;;
    *) usage >&2 && exit 2 ;;
    esac
    export TRUST_DOMAIN=$1
}

fail() {
    echo "start.sh: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null ||
        fail "$1 is not in PATH: get SPIRE from https://spiffe.io/downloads/ and add its bin directory to PATH"
}

# server_cli COMMAND...: runs a command of spire-server for the server of this trust domain.
server_cli() {
    spire-server "$@" -socketPath "$SERVER_SOCKET"
}

# wait_healthy NAME PID COMMAND...: polls SPIRE's own health check.
wait_healthy() {
    local name=$1 pid=$2 deadline=$((SECONDS + HEALTHY_WITHIN))
    shift 2
    until "$@" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || fail "the $name ended; the end of $DATA/$name.log says why:
$(tail -n 5 "$DATA/$name.log")"
        ((SECONDS < deadline)) || fail "the $name is not healthy after $HEALTHY_WITHIN s; see $DATA/$name.log"
        sleep 0.2
    done
    echo "$name is healthy"
}

start_server() {
    spire-server run -expandEnv -config "$here/server.conf" >>"$DATA/server.log" 2>&1 &
    server_pid=$!
    wait_healthy server "$server_pid" server_cli healthcheck
}

start_agent() {
    local token
    server_cli bundle show >"$DATA/bootstrap.pem"
    token=$(server_cli token generate -spiffeID "spiffe://$TRUST_DOMAIN/host")
    # The agent is attested again, because the SVID and bundle of an earlier start may have expired.
    rm -rf "$DATA/agent"
    spire-agent run -expandEnv -config "$here/agent.conf" -joinToken "${token#Token: }" >>"$DATA/agent.log" 2>&1 &
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
    local socket=
    case ${1-} in
    -h | --help) usage && exit ;;
    --agent-socket)
        (($# >= 2)) || { usage >&2 && exit 2; }
        socket=$2
        shift 2
        ;;
    esac
    (($# <= 1)) || { usage >&2 && exit 2; }
    set_domain "${1-example.org}"
    [[ -z $socket ]] || export AGENT_SOCKET=$socket
    need spire-server
    need spire-agent
    ! server_cli healthcheck >/dev/null 2>&1 || fail "a SPIRE server is running already: end it first"
    # An agent would silently take the socket over from whatever serves it.
    [[ ! -e $AGENT_SOCKET ]] || fail "$AGENT_SOCKET exists: end what serves it; if nothing does, rm $AGENT_SOCKET"

    (umask 077 && mkdir -p "$DATA")
    trap stop EXIT
    trap 'exit 0' INT TERM
    start_server
    start_agent
    echo "Workload API at unix://$AGENT_SOCKET; $next"
    wait -n "$server_pid" "$agent_pid" || true
    fail "the server or the agent ended by itself; see $DATA/server.log and $DATA/agent.log"
}

main "$@"
