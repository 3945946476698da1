#!/usr/bin/env bash
# Makes the container image: static binaries in an image from scratch.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly IMAGE=spiffe-jwt-proxy LARGEST=40 # MiB
readonly USER_AND_GROUP=65532:65532
readonly SERVER_ID=spiffe://example.org/server CLIENT_ID=spiffe://example.org/client
readonly OTHER_AUDIENCE=spiffe://example.org/some-other-server
readonly READY_WITHIN=30 # seconds

profile=release
target=
cross=
bin=
check=false
architecture=
archive=
scratch=
version=
declare -A processes

usage() {
    cat <<'USAGE'
usage: scripts/container.sh [--debug] [--target TRIPLE] [--bin DIRECTORY] [--check] [FILE]

Builds server, proxy and client statically (musl), puts them into the image
spiffe-jwt-proxy by buildah, and writes that as an OCI archive to FILE [default:
target/dist/spiffe-jwt-proxy_VERSION_ARCHITECTURE.oci.tar]. Needs no daemon, and
leaves nothing in the container storage of this machine. The build takes about five
minutes on two cores. Needs rustup, buildah, and musl-gcc (musl-tools).

  --debug   build without optimisation, in about a minute
  --target  build for this target of Rust [default: this machine's, for musl]. Another
            architecture needs its compiler, such as gcc-aarch64-linux-gnu
  --bin     take static binaries for the target from this directory
  --check   also run the scenario out of the archive: each process in a container of
            podman, as the image's user, on a read-only root, without capabilities;
            dev-agent is outside. Needs root, podman and runc
USAGE
}

# in_storage PROGRAM ARG...: runs buildah or podman on a storage of its own. The driver vfs works everywhere.
in_storage() {
    local program=$1
    shift
    "$program" --root "$scratch/storage" --runroot "$scratch/run" --storage-driver vfs "$@"
}

# Uses Debian's compiler for another architecture, and sets $cross to the start of its tools' names. Rust brings musl
# itself, and the C code of crates needs only headers.
find_cross_tools() {
    local name=${target//-/_}
    cross=${target%%-*}-linux-gnu-
    need "${cross}gcc" "apt-get install gcc-${target%%-*}-linux-gnu"
    export "CC_$name=${cross}gcc" "AR_$name=${cross}ar" "CARGO_TARGET_${name^^}_LINKER=${cross}gcc"
}

# Builds the binaries, and sets $bin.
build() {
    local arguments=(--locked --target "$target" --bins -p server -p proxy -p client)
    command -v rustup >/dev/null || fail 'rustup is missing: install Rust from https://rustup.rs'
    rustup target list --installed | grep --line-regexp "$target" >/dev/null || rustup target add "$target"
    [[ -n $cross ]] || need musl-gcc 'apt-get install musl-tools'
    [[ $profile == debug ]] || arguments+=(--release)
    cargo build "${arguments[@]}"
    bin=$(target_directory)/$target/$profile
}

# Sets $architecture, the name that container images have for that of the binaries.
find_architecture() {
    case $(LC_ALL=C readelf --file-header "$bin/server" | sed -n 's/^ *Machine: *//p') in
    *X86-64) architecture=amd64 ;;
    AArch64) architecture=arm64 ;;
    *) fail "$bin/server is not a binary for x86-64 or aarch64" ;;
    esac
}

# Copies the binaries without symbols into $scratch/files. A static binary needs no loader.
lay_files() {
    local name
    mkdir "$scratch/files"
    for name in server proxy client; do
        "${cross}strip" -o "$scratch/files/$name" "$bin/$name"
        chmod 0755 "$scratch/files/$name"
        ! LC_ALL=C readelf --program-headers "$scratch/files/$name" | grep INTERP >/dev/null ||
            fail "$bin/$name is not static: build it for $target"
    done
}

# Makes the archive. The same binaries make the same image, because it has no times.
make_image() {
    local size
    lay_files
    in_storage buildah bud --quiet --isolation chroot --arch "$architecture" --timestamp 0 \
        --label "org.opencontainers.image.version=$version" --tag "$IMAGE:$version" \
        --file deploy/container/Containerfile "$scratch/files" >/dev/null
    mkdir -p "$(dirname "$archive")"
    rm -f "$archive"
    in_storage buildah push --quiet "$IMAGE:$version" "oci-archive:$archive:$IMAGE:$version"
    size=$(($(cat "$scratch"/files/* | wc --bytes) / 1024))
    echo "container.sh: $archive: $((size / 1024)) MiB of files, $(($(stat --format %s "$archive") >> 20)) MiB as an archive"
    [[ $profile == debug ]] || ((size <= LARGEST * 1024)) || fail "the image is larger than $LARGEST MiB"
}

# container NAME ARG...: runs the binary of that name out of the image, in the container of that name.
container() {
    local name=$1
    shift
    in_storage podman --runtime runc --cgroup-manager cgroupfs run --rm --name "$name" --network host --log-driver none \
        --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges \
        --ulimit "nofile=$(ulimit -n)" --ulimit nproc=1024 --volume "$scratch/agent:/spiffe-workload-api:ro" \
        "$IMAGE:$version" "$name" "$@"
}

# start NAME COMMAND...: starts a process in the background, and waits until it listens.
start() {
    local name=$1 log=$scratch/$1.log
    shift
    : >"$log" # tail must find it
    "$@" >>"$log" 2>&1 &
    processes[$name]=$!
    timeout "$READY_WITHIN" grep --fixed-strings --max-count 1 'listening on ' \
        <(exec tail --lines +1 --follow --pid "${processes[$name]}" "$log" 2>/dev/null) >/dev/null ||
        fail "$name is not ready: $(cat "$log")"
}

# port NAME: prints where a process listens.
port() {
    sed -n 's/.*listening on .*:\([0-9]*\) .*/\1/p' "$scratch/$1.log" | head -n 1
}

# expect STATUS TEXT ARG...: runs the client, and fails unless it ends with this status and text.
expect() {
    local status=0 output wanted_status=$1 wanted=$2
    shift 2
    output=$(container client --spiffe-id "$CLIENT_ID" --url "https://localhost:$(port proxy)/" "$@" 2>&1) || status=$?
    [[ $status == "$wanted_status" && $output == *"$wanted"* ]] ||
        fail "the client ended with $status and '$output', not with $wanted_status and '$wanted'"
    echo "container.sh: client${*:+ $*}: $wanted (exit status $status)"
}

# stop NAME: ends a container by SIGTERM, as Kubernetes does, and fails unless its status is 0.
stop() {
    local status=0
    in_storage podman stop --time "$READY_WITHIN" "$1" >/dev/null
    wait "${processes[$1]}" || status=$?
    ((status == 0)) || fail "$1 ended with $status: $(cat "$scratch/$1.log")"
}

# Runs the scenario out of the archive. All containers have the same user, so that each chooses its SPIFFE ID.
run_scenario() {
    local user=unix:uid:${USER_AND_GROUP%:*} name
    cargo build --workspace --exclude bench --exclude drill --bins --locked
    rm -rf "$scratch/storage"
    in_storage podman load --quiet --input "$archive" >/dev/null
    [[ $(in_storage podman inspect --format '{{.Config.User}}' "$IMAGE:$version") == "$USER_AND_GROUP" ]] ||
        fail "the user of the image is not $USER_AND_GROUP"
    install -d -m 0755 "$scratch/agent"
    start dev-agent "$(target_directory)/debug/dev-agent" --socket "$scratch/agent/spire-agent.sock" \
        --entry "$SERVER_ID=$user;dns=localhost" --entry "$CLIENT_ID=$user"
    start server container server --spiffe-id "$SERVER_ID" --listen 127.0.0.1:0
    start proxy container proxy --spiffe-id "$SERVER_ID" --listen 127.0.0.1:0 \
        --upstream "https://localhost:$(port server)"
    for name in server proxy; do
        grep --fixed-strings 'sandbox entered' "$scratch/$name.log" >/dev/null ||
            fail "$name has no sandbox: $(cat "$scratch/$name.log")"
    done
    expect 0 'Success!!!'
    expect 1 '401 Unauthorized' "$OTHER_AUDIENCE"
    stop proxy
    stop server
    echo 'container.sh: the scenario ran out of the image'
}

# shellcheck disable=SC2317 # main's trap calls it
clean_up() {
    [[ ! -v processes[server] ]] || in_storage podman rm --all --force --time 0 >/dev/null 2>&1 || true
    [[ -z ${processes[dev-agent]-} ]] || kill "${processes[dev-agent]}" 2>/dev/null || true
    wait
    # Where buildah was not root, the files belong to other user IDs.
    rm -rf "$scratch" 2>/dev/null || buildah unshare rm -rf "$scratch"
}

main() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    target=$(uname -m)-unknown-linux-musl
    while (($#)); do
        case $1 in
        -h | --help) usage && exit ;;
        --debug) profile=debug ;;
        --target) target=${2-} && shift ;;
        --bin) bin=${2-} && shift ;;
        --check) check=true ;;
        -*) usage >&2 && exit 2 ;;
        *) archive=$1 ;;
        esac
        shift
    done
    need buildah 'apt-get install buildah'
    [[ $target == "$(uname -m)"-* ]] || find_cross_tools
    if $check; then
        [[ -z $cross ]] || fail '--check needs binaries for this machine'
        ((EUID == 0)) || fail '--check needs root'
        need podman 'apt-get install podman'
        need runc 'apt-get install runc'
    fi
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    [[ -n $bin ]] || build
    [[ -x $bin/server ]] || fail "$bin has no binaries"
    find_architecture
    archive=${archive:-target/dist/${IMAGE}_${version}_$architecture.oci.tar}
    scratch=$(mktemp -d)
    trap clean_up EXIT
    make_image
    ! $check || run_scenario
}

main "$@"
