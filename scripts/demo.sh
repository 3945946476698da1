#!/usr/bin/env bash
# Runs the whole scenario on this machine and tells what happens: dev-agent, server and proxy, a client whose
# request is answered, and the same client refused. With --apps, applications stand at both ends.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly SERVER_ID=spiffe://example.org/server
readonly CLIENT_ID=spiffe://example.org/client
readonly STRANGER_ID=spiffe://example.org/stranger
readonly OTHER_AUDIENCE=spiffe://example.org/some-other-server
readonly READY_WITHIN=30 # seconds
readonly WIDTH=100       # columns

users=false
keep=false
apps=false
release=false
directory=
bin=
columns=$WIDTH
bold='' dim='' green='' red='' plain=''
declare -A pids seen

usage() {
    cat <<USAGE
usage: scripts/demo.sh [--apps] [--release] [--users] [--keep]

Builds the binaries as scripts/test.sh does, and runs the scenario on free ports of
this machine, with the project's own dev-agent in the place of SPIRE. The first
build takes about two minutes on two cores; the scenario takes seconds. Colours are
for terminals, unless NO_COLOR is set.

  --apps     put an application in Python behind the server, and call it by curl through
             a client that listens; needs python3 and curl
  --release  build and run the optimised binaries; their first build takes about
             five minutes
  --users    run each process as its own Unix user, server-workload and
             client-workload (and stranger-workload), created if missing; needs root
  --keep     leave it running until Ctrl-C, and print what to try by hand
USAGE
}

check_prerequisites() {
    need cargo 'install Rust 1.88 or later from https://rustup.rs'
    need cc 'install a C compiler, for example: apt-get install gcc'
    need setsid 'install util-linux'
    [[ $(uname -s) == Linux ]] || fail 'needs Linux: callers are attested by the credentials of a Linux kernel'
    if $apps; then
        need python3 'install it, for example: apt-get install python3'
        need curl 'install it, for example: apt-get install curl'
    fi
    if $users; then
        ((EUID == 0)) || fail '--users needs root: sudo scripts/demo.sh --users'
        need setpriv 'install util-linux'
        local user names=(server-workload client-workload)
        ! $apps || names+=(stranger-workload)
        for user in "${names[@]}"; do
            id -u "$user" >/dev/null 2>&1 && continue
            need useradd "install it, or create the user $user"
            useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
        done
    fi
}

# Fits the output to a terminal: its width, and colours unless NO_COLOR is set.
fit_terminal() {
    [[ -t 1 ]] || return 0
    columns=$(tput cols 2>/dev/null) || columns=$WIDTH
    ((columns >= 40 && columns <= WIDTH)) || columns=$WIDTH
    if [[ -z ${NO_COLOR-} && ${TERM-dumb} != dumb ]]; then
        bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
    fi
}

title() {
    printf '\n%s%s%s\n\n' "$bold" "$*" "$plain"
}

# say NAME TEXT: prints what a process is or does.
say() {
    local name=$1 line
    fold -s -w $((columns - 13)) <<<"$2" | while IFS= read -r line; do
        printf '  %s%-10s%s %s\n' "$bold" "$name" "$plain" "${line% }"
        name=
    done
}

# show LINE: prints evidence below what was said, uncut.
show() {
    printf '%13s%s%s%s\n' '' "$dim" "$1" "$plain"
}

build() {
    local profile=debug target
    local arguments=(--workspace --exclude bench --exclude drill --bins)
    if $release; then
        profile=release
        # The tests need more features of the dependencies, so that only the installed binaries are built.
        arguments=(--release --bins)
        echo 'Building dev-agent, server, proxy and client, optimised.'
        echo 'The first build takes about five minutes on two cores, later ones take seconds.'
    else
        echo 'Building dev-agent, server, proxy and client; scripts/test.sh uses the same build.'
        echo 'The first build takes about two minutes on two cores, later ones take seconds.'
    fi
    SECONDS=0
    cargo build --locked "${arguments[@]}"
    echo "Built in $SECONDS s."
    target=$(target_directory)
    bin=$target/$profile
    if $users; then
        # Other users may not be allowed to read the target directory.
        mkdir -m 755 "$directory/bin"
        install -m 755 -t "$directory/bin" "$bin"/{dev-agent,server,proxy,client}
        bin=$directory/bin
    fi
}

# program NAME: prints the path of its binary.
program() {
    case $1 in
    stranger) echo "$directory/stranger/stranger" ;;
    *) echo "$bin/$1" ;;
    esac
}

# user NAME: prints the Unix user of a process with --users.
user() {
    case $1 in
    server | proxy) echo server-workload ;;
    client) echo client-workload ;;
    stranger) echo stranger-workload ;;
    esac
}

# as NAME COMMAND...: becomes COMMAND, run as the user of NAME. The agent and the application have no such user.
as() {
    local name=$1
    shift
    if $users && [[ $name != dev-agent && $name != app ]]; then
        set -- setpriv --reuid "$(user "$name")" --regid "$(user "$name")" --clear-groups "$@"
    fi
    # Ctrl-C in the terminal reaches a session, and this script ends the others in order.
    exec setsid "$@"
}

# start NAME ARG...: starts the binary of that name.
start() {
    local name=$1
    shift
    start_program "$name" "$(program "$name")" "$@"
}

# start_program NAME PROGRAM ARG...: starts a program with its log in a file, and waits until it listens.
start_program() {
    local name=$1
    shift
    : >"$directory/$name.log" # tail must find it
    (as "$name" "$@") 2>>"$directory/$name.log" &
    pids[$name]=$!
    await_line "$name" 'listening on ' >/dev/null || {
        show_logs
        fail "$name is not ready"
    }
}

# port NAME: prints where it listens.
port() {
    sed -n 's/.*listening on .*:\([0-9]*\)\( .*\)\?$/\1/p' "$directory/$1.log" | head -n 1
}

# await_line NAME TEXT: waits for a log line with TEXT after the last `mark`, and prints it.
await_line() {
    # tail ends with the process, and grep has seen its last line by then.
    timeout --foreground "$READY_WITHIN" grep -F -m1 -e "$2" \
        <(exec tail -n "+$((${seen[$1]:-0} + 1))" -f --pid="${pids[$1]}" "$directory/$1.log" 2>/dev/null)
}

# Lets await_line ignore what is in the logs now.
mark() {
    local name
    for name in "${!pids[@]}"; do
        seen[$name]=$(wc -l <"$directory/$name.log")
    done
}

# show_logged NAME TEXT: prints the log line with TEXT, which must be there.
show_logged() {
    local line
    line=$(await_line "$1" "$2") || {
        show_logs
        fail "$1 did not log '$2'"
    }
    # The line is shown without its date, and with milliseconds.
    line=$(sed -E 's/^[^T]*T([0-9:]*\.[0-9]{3})[^ ]* +/\1 /' <<<"$line")
    show "log: $line"
}

# Prints the end of each log after a failure.
show_logs() {
    local name
    for name in "${!pids[@]}"; do
        tail -n 20 "$directory/$name.log" | sed "s/^/$name: /" >&2
    done
}

# claims [AUDIENCE]: prints the claims of a token that the client sends.
claims() {
    local token payload
    token=$(as client "$bin/client" --print-token "$@")
    payload=$(cut -d. -f2 <<<"$token" | tr '_-' '/+')
    while ((${#payload} % 4)); do payload+='='; done
    base64 -d <<<"$payload"
}

# selector NAME: prints the selector of a process, which is its user or its executable.
selector() {
    if $users; then
        echo "unix:user:$(user "$1")"
    else
        echo "unix:path:$(program "$1")"
    fi
}

start_all() {
    local entries=(--entry "$SERVER_ID=$(selector server);dns=localhost" --entry "$CLIENT_ID=$(selector client)")
    $users || entries+=(--entry "$SERVER_ID=$(selector proxy);dns=localhost")
    export SPIFFE_ENDPOINT_SOCKET="unix://$directory/agent.sock"
    ! $apps || entries+=(--entry "$STRANGER_ID=$(selector stranger)")
    start dev-agent --socket "$directory/agent.sock" "${entries[@]}"
    if $apps; then
        start_apps
        return
    fi
    start server --listen 127.0.0.1:0
    start proxy --listen 127.0.0.1:0 --upstream "https://localhost:$(port server)"
}

introduce() {
    local by='executable'
    ! $users || by='Unix user'
    title 'The processes, on free ports of this machine'
    say dev-agent "gives every process its SPIFFE identity over a Unix socket, as a SPIRE agent does. It recognises \
a process by its $by. No process has a password, a key file or a certificate file."
    say server "is $SERVER_ID$(as_user server). It listens on port $(port server) and answers only callers \
whose identity it has verified."
    say proxy "is $SERVER_ID too$(as_user proxy). The two share one identity, as in the example of go-spiffe that \
this scenario follows. The proxy listens on port $(port proxy) and forwards to the server."
    say client "is $CLIENT_ID$(as_user client). It makes one request and ends."
    printf '\n%13sclient ────── TLS ──────▶ proxy ────── TLS ──────▶ server\n\n' ''
    say '' "The client's TLS connection ends at the proxy, which has a connection of its own to the server. So the \
server can't tell from its connection who calls. The request itself has to say it: it carries a signed token, a \
JWT-SVID, that names the client."
}

# as_user NAME: prints the Unix user of a process with --users.
as_user() {
    ! $users || printf ', as Unix user %s' "$(user "$1")"
}

# request STATUS TEXT ARG...: runs the client, and fails unless it ends with this status and text.
request() {
    local expected_status=$1 expected_text=$2 output status=0
    shift 2
    mark
    printf '  %s$ client%s%s\n' "$bold" "${*:+ $*}" "$plain"
    say dev-agent 'recognises the client and issues it a token. The token says:'
    show "$(claims "$@")"
    output=$(as client "$bin/client" --url "https://localhost:$(port proxy)/" "$@" 2>&1) || status=$?
    [[ $status == "$expected_status" && $output == "$expected_text" ]] || {
        show_logs
        fail "the client printed '$output' with exit status $status: expected '$expected_text' and $expected_status"
    }
}

tell_accepted() {
    title '1. A request with a token for this server'
    request 0 'Success!!!'
    say client "verifies that the proxy's certificate names $SERVER_ID. Then it sends GET / with the token in the \
Authorization header."
    say proxy "verifies that the server's certificate names $SERVER_ID. Then it forwards the request, and with it the \
token, which it does not check."
    show_logged proxy 'GET /'
    say server "verifies the token: it is signed with a key of the trust domain, it has not expired (exp), and its \
audience (aud) is this server. So the caller is the workload that the token names (sub)."
    show_logged server 'Request received'
    say client "prints ${green}Success!!!$plain (exit status 0)"
}

tell_refused() {
    title '2. A request of the same client with a token for another server'
    request 1 '401 Unauthorized' "$OTHER_AUDIENCE"
    say client 'sends GET / as before, with this token.'
    say proxy 'forwards it as before, because it does not check tokens.'
    show_logged proxy 'GET /'
    say server "refuses it. The signature is as good as before, but the audience is another server. If this server \
took such tokens, every server that the client calls could use the client's token to call this one in its name."
    show_logged server 'Invalid token'
    say client "prints ${red}401 Unauthorized$plain (exit status 1). Only the server's log has the reason."
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

# Ends all processes in the reverse order, and fails unless each ends with status 0.
stop_all() {
    local name status failed=
    for name in stranger client proxy server app dev-agent; do
        [[ -v pids[$name] ]] || continue
        kill -TERM "${pids[$name]}" 2>/dev/null || true
        status=0
        wait "${pids[$name]}" || status=$?
        unset "pids[$name]"
        # SIGTERM ends the application, which does not handle it.
        [[ $name == app && $status == 143 ]] && continue
        ((status == 0)) || failed+=" $name ($status)"
    done
    [[ -z $failed ]] || fail "did not end with status 0:$failed"
}

clean_up() {
    local pid
    trap '' HUP INT TERM # a second Ctrl-C would leave processes behind
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$directory"
}

main() {
    # shellcheck source=scripts/demo-apps/story.sh
    source "$(dirname "${BASH_SOURCE[0]}")/demo-apps/story.sh"
    local argument
    for argument in "$@"; do
        case $argument in
        --apps) apps=true ;;
        --release) release=true ;;
        --users) users=true ;;
        --keep) keep=true ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
        esac
    done
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    fit_terminal
    check_prerequisites
    trap clean_up EXIT
    trap 'exit 130' HUP INT TERM
    directory=$(mktemp -d)
    chmod 755 "$directory"
    build
    ! $apps || add_stranger
    start_all
    if $apps; then
        introduce_apps
        tell_apps
        ! $keep || try_apps_by_hand
    else
        introduce
        tell_accepted
        tell_refused
        ! $keep || try_by_hand
    fi
    stop_all
    if $apps; then
        printf '\n%sAs it should be: the application was called by the client, and not by the stranger.%s\n' \
            "$bold" "$plain"
        return
    fi
    printf '\n%sAs it should be: the first request was answered, the second was refused.%s\n' "$bold" "$plain"
}

main "$@"
