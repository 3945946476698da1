# shellcheck shell=bash disable=SC2154 # scripts/demo.sh sets the variables
# Has the functions of scripts/demo.sh --apps, which puts applications at both ends.

# Installs the client under another name, so that the agent gives it another identity.
add_stranger() {
    mkdir -m 755 "$directory/stranger"
    install -m 755 "$bin/client" "$directory/stranger/stranger"
}

start_apps() {
    start_program app python3 "$PWD/scripts/demo-apps/app.py" 0
    start server --listen 127.0.0.1:0 --upstream "http://127.0.0.1:$(port app)" --allow "$CLIENT_ID"
    start proxy --listen 127.0.0.1:0 --upstream "https://localhost:$(port server)" --path '/**'
    start client --listen 127.0.0.1:0 --url "https://localhost:$(port proxy)"
    start stranger --listen 127.0.0.1:0 --url "https://localhost:$(port proxy)"
}

introduce_apps() {
    title 'The processes, on free ports of this machine'
    say app "is an application in Python that knows nothing of SPIFFE. It answers on port $(port app)."
    say server "stands in front of the application. It is $SERVER_ID, and lets only $CLIENT_ID in."
    say proxy "stands for any load balancer that terminates TLS. It forwards to the server."
    say client "is $CLIENT_ID. It listens on port $(port client) for applications of its own, and adds its token to \
their requests."
    say stranger "is the same program with another identity, $STRANGER_ID. It listens on port $(port stranger)."
    printf '\n%13scurl ─ http ─▶ client ─ TLS ─▶ proxy ─ TLS ─▶ server ─ http ─▶ app\n' ''
}

# call EXPECTED ARG...: runs curl, and fails unless it prints EXPECTED.
call() {
    local expected=$1 output
    shift
    mark
    printf '  %s$ curl %s%s\n' "$bold" "$*" "$plain"
    output=$(curl --silent --show-error --max-time "$READY_WITHIN" "$@" 2>&1) || true
    [[ $output == "$expected" ]] || {
        show_logs
        fail "curl printed '$output': expected '$expected'"
    }
}

tell_apps() {
    title '1. A request of an application'
    call "GET /orders of $CLIENT_ID, without a token" "http://127.0.0.1:$(port client)/orders"
    say curl 'sends a request over HTTP without TLS, and no credential.'
    say client 'adds its token, and sends the request over TLS to the proxy, whose identity it verifies.'
    show_logged client 'GET /orders'
    say server "verifies the token, and forwards the request without it. X-SPIFFE-ID says who called."
    show_logged server 'Request received'
    say app "answers ${green}GET /orders of $CLIENT_ID$plain"

    title '2. The same request, with an identity that the caller claims'
    call "GET /orders of $CLIENT_ID, without a token" -H 'X-SPIFFE-ID: spiffe://example.org/admin' \
        "http://127.0.0.1:$(port client)/orders"
    say server 'removes what a caller claims about itself, so that the answer is the same.'

    title '3. The same request through the stranger'
    call '403 Forbidden' "http://127.0.0.1:$(port stranger)/orders"
    say server "verifies the token of $STRANGER_ID, and does not let it in. The application sees nothing of it."
    show_logged server 'Not allowed'
    say curl "prints ${red}403 Forbidden$plain"
}

try_apps_by_hand() {
    cat <<TRY

Running until Ctrl-C. Logs are in $directory. In another terminal:

  curl http://127.0.0.1:$(port client)/any/path
  http_proxy=http://127.0.0.1:$(port client) curl http://orders.internal/any/path
  curl http://127.0.0.1:$(port stranger)/any/path
TRY
    trap 'echo' INT
    wait "${pids[@]}" || true
}
