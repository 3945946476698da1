#!/usr/bin/env bash
# The whole scenario on this machine: dev-agent, server, proxy, and a client that gets through and one
# that does not. Shows the log lines of all of them in the order of time.
set -euo pipefail

readonly SERVER_ID=spiffe://example.org/server
readonly CLIENT_ID=spiffe://example.org/client
readonly OTHER_AUDIENCE=spiffe://example.org/some-other-server
readonly READY_WITHIN=30 # seconds

users=false
keep=false
directory=
bin=
declare -A pids shown

usage() {
    cat <<USAGE
usage: scripts/demo.sh [--users] [--keep]

Builds the binaries in release mode and runs the scenario on free ports of this
machine, with the project's own dev-agent in the place of SPIRE.

  --users  run each process as its own Unix user, server-workload and
           client-workload, created if missing; needs root
  --keep   leave it running until Ctrl-C, and print what to try by hand
USAGE
}

fail() {
    echo "demo.sh: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

check_prerequisites() {
    need cargo 'install Rust 1.88 or later from https://rustup.rs'
    need cc 'install a C compiler, for example: apt-get install gcc'
    need setsid 'install util-linux'
    [[ $(uname -s) == Linux ]] || fail 'needs Linux: callers are attested by the credentials of a Linux kernel'
    if $users; then
        ((EUID == 0)) || fail '--users needs root: sudo scripts/demo.sh --users'
        need setpriv 'install util-linux'
        local user
        for user in server-workload client-workload; do
            id -u "$user" >/dev/null 2>&1 && continue
            need useradd "install it, or create the user $user"
            useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
        done
    fi
}

build() {
    echo 'Building in release mode; the first time takes some minutes.'
    cargo build --release --locked --bins
    local target
    target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    # Copies: other users may not be allowed where this was built.
    install -m 755 -t "$bin" "$target"/release/{dev-agent,server,proxy,client}
}

# as NAME COMMAND...: runs COMMAND in the place of NAME, as that one's user with --users.
as() {
    local name=$1 user
    shift
    case $name in
    server | proxy) user='server-workload' ;;
    client) user='client-workload' ;;
    esac
    if $users && [[ -n ${user-} ]]; then
        set -- setpriv --reuid "$user" --regid "$user" --clear-groups "$@"
    fi
    # A session of its own: Ctrl-C in the terminal is for this script, which ends the others in order.
    exec setsid "$@"
}

# start NAME ARG...: starts a binary with its log in a file, and waits until it listens.
start() {
    local name=$1
    shift
    : >"$directory/$name.log" # tail must find it
    (as "$name" "$bin/$name" "$@") 2>>"$directory/$name.log" &
    pids[$name]=$!
    # tail ends with the process: then grep has seen its last line.
    timeout --foreground "$READY_WITHIN" grep -q -m1 'listening on ' \
        <(exec tail -n +1 -f --pid="${pids[$name]}" "$directory/$name.log" 2>/dev/null) || {
        show "$name"
        fail "$name is not ready"
    }
}

# port NAME: where it listens.
port() {
    sed -n 's/.*listening on .*:\([0-9]*\)\( .*\)\?$/\1/p' "$directory/$1.log" | head -n 1
}

# show NAME...: the log lines since the last time, in the order of time, under their processes' names.
show() {
    local name new lines=
    for name in "$@"; do
        mapfile -t -s "${shown[$name]:-0}" new <"$directory/$name.log"
        shown[$name]=$((${shown[$name]:-0} + ${#new[@]}))
        lines+=$(printf '%s\n' "${new[@]}" |
            sed -E "s/^[^T]*T([0-9:]*\.[0-9]{3})[^ ]* +/\1 $(printf '%-9s' "$name") /")$'\n'
    done
    sort -s -k1,1 <<<"$lines" | sed '/^ *$/d'
}

# await_line NAME TEXT: waits for a log line since the last time; they are written a moment late.
await_line() {
    timeout --foreground "$READY_WITHIN" grep -qF -m1 "$2" \
        <(exec tail -n "+$((${shown[$1]:-0} + 1))" -f --pid="${pids[$1]}" "$directory/$1.log" 2>/dev/null)
}

# request EXPECTED_STATUS EXPECTED_TEXT SERVER_LOG ARG...: runs the client and shows how the request
# travelled.
request() {
    local expected_status=$1 expected_text=$2 server_log=$3 output status=0 missing=
    shift 3
    printf '\n$ client%s\n' "${*:+ $*}"
    output=$(as client "$bin/client" --url "https://localhost:$(port proxy)/" "$@" 2>&1) || status=$?
    if [[ $status == "$expected_status" && $output == "$expected_text" ]]; then
        await_line proxy 'GET /' || missing="the proxy did not log 'GET /'"
        await_line server "$server_log" || missing="the server did not log '$server_log'"
    else
        missing="expected '$expected_text' and exit status $expected_status"
    fi
    show dev-agent proxy server
    printf '%-12s %-9s %s (exit status %s)\n' '' client "$output" "$status"
    [[ -z $missing ]] || fail "$missing"
}

# selector NAME: how the agent knows the process: by its user, or by its binary.
selector() {
    if $users; then
        [[ $1 == client ]] && echo unix:user:client-workload || echo unix:user:server-workload
    else
        echo "unix:path:$bin/$1"
    fi
}

start_all() {
    local entries=(--entry "$SERVER_ID=$(selector server);dns=localhost" --entry "$CLIENT_ID=$(selector client)")
    $users || entries+=(--entry "$SERVER_ID=$(selector proxy);dns=localhost")
    export SPIFFE_ENDPOINT_SOCKET="unix://$directory/agent.sock"
    echo
    start dev-agent --socket "$directory/agent.sock" "${entries[@]}"
    start server --listen 127.0.0.1:0
    start proxy --listen 127.0.0.1:0 --upstream "https://localhost:$(port server)"
    show dev-agent server proxy
}

try_by_hand() {
    local client="$bin/client"
    ! $users || client="setpriv --reuid client-workload --regid client-workload --clear-groups $client"
    cat <<TRY

Running until Ctrl-C. Logs are in $directory. In another terminal:

  export SPIFFE_ENDPOINT_SOCKET=$SPIFFE_ENDPOINT_SOCKET CLIENT_URL=https://localhost:$(port proxy)/
  client="$client"
  \$client -i
  \$client $OTHER_AUDIENCE
  curl --cacert <(\$client --print-bundle) -H "Authorization: Bearer \$(\$client --print-token)" \$CLIENT_URL
TRY
    trap 'echo' INT
    wait "${pids[@]}" || true
}

# Ends everything in the reverse order; each must end well.
stop_all() {
    local name status failed=
    for name in proxy server dev-agent; do
        kill -TERM "${pids[$name]}" 2>/dev/null || true
        status=0
        wait "${pids[$name]}" || status=$?
        unset "pids[$name]"
        ((status == 0)) || failed+=" $name ($status)"
    done
    [[ -z $failed ]] || fail "did not end with status 0:$failed"
}

clean_up() {
    local pid
    trap '' HUP INT TERM # a second Ctrl-C would leave the rest
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$directory"
}

main() {
    local argument
    for argument in "$@"; do
        case $argument in
        --users) users=true ;;
        --keep) keep=true ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
        esac
    done
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    check_prerequisites
    trap clean_up EXIT
    trap 'exit 130' HUP INT TERM
    directory=$(mktemp -d)
    bin=$directory/bin
    mkdir -m 755 "$bin"
    chmod 755 "$directory"
    build
    start_all
    request 0 'Success!!!' 'Request received'
    request 1 '401 Unauthorized' 'Invalid token' "$OTHER_AUDIENCE"
    ! $keep || try_by_hand
    stop_all
    printf '\nAs it should be: one request got through, one was refused.\n'
}

main "$@"
