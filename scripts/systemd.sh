#!/usr/bin/env bash
# Runs the units of deploy/systemd under a real systemd, which is process 1 of namespaces of its own.
set -euo pipefail

readonly WITHIN=240 # seconds

directory=
cgroup=
keep_log=false

usage() {
    cat <<'USAGE'
usage: scripts/systemd.sh [--journal]

Builds the binaries, boots systemd in namespaces (processes, mounts, network, cgroups)
on a copy of this machine's files in memory, and runs the units of deploy/systemd
there, with dev-agent in the place of SPIRE: starts, reloads, restarts under load, an
outage of the agent, and a process that hangs. Nothing of this machine is changed.
Takes under a minute after the build. Needs root and systemd; without them, prints
`skipped:` and the reason.

  --journal  print the journal of that systemd also after a success
USAGE
}

skip() {
    echo "skipped: $*" >&2
    exit 0
}

# Puts the files of the booted machine into $directory/root: those of this machine without its units, and the project's.
lay_files() {
    local root=$directory/root file
    mount --types tmpfs tmpfs "$directory"
    mkdir "$directory"/{upper,work,root}
    mount --types overlay overlay --options "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" "$root"
    rm -rf "$root"/etc/{fstab,init.d,rc?.d} "$root"/etc/systemd/system
    install -d "$root"/etc/{spiffe-jwt-proxy,systemd/system}
    install -m 0755 target/debug/{server,proxy,client,dev-agent} scripts/systemd/story.sh "$root"/usr/local/bin/
    install -m 0644 deploy/systemd/*.{service,socket} scripts/systemd/*.{service,target} "$root"/etc/systemd/system/
    ln -s story.target "$root"/etc/systemd/system/default.target
    for file in run tmp dev; do
        mount --types tmpfs tmpfs "$root/$file"
    done
    install -d "$root"/dev/{pts,shm} "$root"/run/story
    for file in null zero full random urandom tty; do
        touch "$root/dev/$file"
        mount --bind "/dev/$file" "$root/dev/$file"
    done
}

# Becomes process 1 of the booted machine, whose log is written into the directory $1 of this machine.
boot() {
    local story=$1 root=$directory/root
    exec 3<"$story"
    lay_files
    mount --bind /proc/self/fd/3 "$root"/run/story
    mount --types proc proc "$root"/proc
    mount --types sysfs --options ro sysfs "$root"/sys
    mount --types cgroup2 cgroup2 "$root"/sys/fs/cgroup
    mount --types devpts devpts "$root"/dev/pts
    ln -s pts/ptmx "$root"/dev/ptmx
    ip link set lo up
    exec 3<&-
    cd "$root"
    pivot_root . mnt
    umount --lazy mnt
    exec env --ignore-environment container=other "PATH=$PATH" /lib/systemd/systemd --show-status=no
}

# Removes what is left of the booted machine.
# shellcheck disable=SC2317 # main's trap calls it
clean_up() {
    if [[ -n $cgroup ]]; then
        echo 0 >"${cgroup%/*}/cgroup.procs"
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
    fi
    rm -rf "$directory"
}

main() {
    local controllers story status
    case ${1-} in
    -h | --help) usage && exit ;;
    --boot) directory=$2 && boot "$3" ;;
    --journal) keep_log=true ;;
    '') ;;
    *) usage >&2 && exit 2 ;;
    esac
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    ((EUID == 0)) || skip 'systemd.sh needs root'
    [[ -x /lib/systemd/systemd ]] || skip 'there is no systemd: apt-get install systemd'
    controllers=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
    [[ -n $controllers ]] || skip 'no cgroup2 is mounted'
    cargo build --workspace --exclude bench --exclude drill --bins --locked

    directory=$(mktemp -d)
    trap clean_up EXIT
    story=$directory.story
    install -d "$story"
    mkdir "$controllers/systemd-sh-$$" 2>/dev/null || skip 'this machine does not allow another cgroup'
    cgroup=$controllers/systemd-sh-$$
    echo $$ >"$cgroup/cgroup.procs"
    unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup true 2>/dev/null ||
        skip 'this machine does not allow namespaces'
    timeout --signal=KILL "$WITHIN" unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup \
        "$PWD/scripts/systemd.sh" --boot "$directory" "$story" </dev/null >"$story/console" 2>&1 &
    tail --pid $! --follow --lines +1 --retry --quiet --sleep-interval 0.2 "$story/log" 2>/dev/null || true
    status=$(cat "$story/status" 2>/dev/null || echo 'it did not end')
    if $keep_log || [[ $status != 0 ]]; then
        cat "$story/console" "$story/journal" 2>/dev/null || true
    fi
    rm -rf "$story"
    [[ $status == 0 ]] || {
        echo "systemd.sh: failed ($status)" >&2
        exit 1
    }
}

main "$@"
