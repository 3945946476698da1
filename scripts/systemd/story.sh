#!/usr/bin/env bash
# Tries the units of deploy/systemd. It runs inside the machine that scripts/systemd.sh boots.
set -euo pipefail

export SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent/api.sock
readonly LOADS=3
readonly FAILED=/run/story/failed COUNT=/run/story/count

say() {
    printf '%3s s  %s\n' "$SECONDS" "$*"
}

fail() {
    say "FAILED: $*"
    exit 1
}

# until_so SECONDS WHAT COMMAND...: waits until a command succeeds.
until_so() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what; server is $(state server), proxy is $(state proxy)"
        sleep 0.1
    done
}

# state UNIT: prints the state of a service as systemd has it.
state() {
    systemctl show "$1" --property ActiveState,Result,NRestarts,StatusText | paste -s -d ' '
}

# has_status UNIT TEXT: returns whether the status line of a service has a text.
has_status() {
    [[ $(systemctl show "$1" --property StatusText --value) == *"$2"* ]]
}

is_active() {
    systemctl is-active --quiet "$1"
}

request() {
    client --url https://localhost:8443/ --max-time 20s
}

# Makes requests, each by a process and a connection of its own, until the machine ends or the file `stop` exists.
load() {
    while [[ ! -e /run/story/stop ]]; do
        if request >/dev/null 2>>"$FAILED"; then echo >>"$COUNT"; fi
    done
}

answered() {
    wc -l <"$COUNT"
}

# answered_since COUNT: returns whether requests have been answered since there were this many.
answered_since() {
    (($(answered) >= $1 + LOADS * 2))
}

# under_load WHAT COMMAND...: runs a command while requests are made.
under_load() {
    local what=$1 before
    shift
    before=$(answered)
    until_so 30 'requests are answered' answered_since "$before"
    "$@" || fail "$what"
    before=$(answered)
    until_so 30 'requests are answered' answered_since "$before"
    say "$what: $(answered) requests answered, $(wc -l <"$FAILED") failed"
}

starts() {
    systemctl start --no-block server.service
    until_so 20 'the server says what it waits for' has_status server 'no such socket; start the agent'
    ! is_active server || fail 'the server is ready without an identity'
    say "without an agent: $(state server)"
    systemctl start agent.service server.service proxy.service
    is_active server && is_active proxy || fail 'not started'
    say "started: $(state server)"
    [[ $(curl --silent --unix-socket /run/server/admin.sock http://admin/ready) == ready* ]] ||
        fail 'the admin listener does not answer'
    request
}

changes_under_load() {
    local i load=()
    : >"$FAILED" >"$COUNT"
    for ((i = 0; i < LOADS; i++)); do
        load &
        load+=($!)
    done
    for i in 1 2; do
        under_load "server restarted" systemctl restart server.service
        under_load "proxy restarted" systemctl restart proxy.service
    done
    printf '[[rule]]\npaths = ["/**"]\ncallers = ["spiffe://example.org/client"]\n' >/etc/spiffe-jwt-proxy/policy.toml
    under_load "policy read again" systemctl reload server.service
    has_status server 'policy in force, rules: 1' || fail 'the policy was not read again'
    under_load "server and proxy restarted" systemctl restart server.service proxy.service
    touch /run/story/stop
    wait "${load[@]}"
    [[ ! -s $FAILED ]] || fail "requests failed: $(cat "$FAILED")"
}

outage() {
    systemctl stop agent.service
    until_so 10 'the server says that the agent is away' has_status server 'lost the Workload API'
    say "agent stopped: $(state server)"
    systemctl start agent.service
    until_so 20 'the server says that the agent is back' eval '! has_status server "lost the Workload API"'
}

has_restarted() {
    [[ $(systemctl show server --property NRestarts --value) -ge 1 ]] && is_active server
}

hangs() {
    install -d /run/systemd/system/server.service.d
    printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/server.service.d/watchdog.conf
    systemctl daemon-reload
    systemctl restart server.service
    kill -STOP "$(systemctl show server --property MainPID --value)"
    request >/run/story/waiting &
    until_so 30 'the watchdog restarts the server' has_restarted
    journalctl --quiet --unit server.service --grep 'Watchdog timeout' --lines 1 --output cat ||
        fail 'it was not the watchdog'
    wait $! || fail 'the request that waited has failed'
    say "server was stopped by SIGSTOP: $(state server)"
}

stops() {
    systemctl stop proxy.socket proxy.service server.socket server.service
    for unit in server proxy; do
        [[ $(state "$unit") == *'ActiveState=inactive'*'Result=success'* || $(state "$unit") == *'Result=success'*'ActiveState=inactive'* ]] ||
            fail "$unit did not end well: $(state "$unit")"
    done
    say "stopped: $(state server)"
}

main() {
    trap 'echo $? >/run/story/status; journalctl --quiet --boot --no-pager >/run/story/journal' EXIT
    printf '%s\n' SERVER_POLICY=/etc/spiffe-jwt-proxy/policy.toml SERVER_ADMIN=unix:/run/server/admin.sock \
        >/etc/spiffe-jwt-proxy/server.env
    printf '[[rule]]\npaths = ["/"]\ncallers = ["spiffe://example.org/*"]\n\n[[rule]]\npaths = ["/x"]\npublic = true\n' \
        >/etc/spiffe-jwt-proxy/policy.toml
    systemctl --version | head -n 1
    systemctl start server.socket proxy.socket
    starts
    changes_under_load
    outage
    hangs
    stops
}

main "$@"
