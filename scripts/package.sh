#!/usr/bin/env bash
# Makes the Debian package.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
usage: scripts/package.sh [--bin DIRECTORY] [--check] [DIRECTORY]

Makes spiffe-jwt-proxy_VERSION_ARCHITECTURE.deb in DIRECTORY [default: target/dist]:
the binaries as spiffe-jwt-server, -proxy and -client, their units, users, manual pages
and completions. Needs dpkg-deb, and cargo for the pages.

  --bin    take the binaries from this directory [default: target/dist, where
           scripts/release.sh puts them]
  --check  also install, try and purge the package in a root of its own, which
           shares this machine's files in memory; needs root
USAGE
}

# unit NAME KIND: prints a unit of deploy/systemd with the installed names.
unit() {
    sed -e "s|/usr/local/bin/$1|/usr/bin/spiffe-jwt-$1|" -e "s|\b$1\.socket|spiffe-jwt-$1.socket|" \
        -e "s|\b$1\.service|spiffe-jwt-$1.service|" "deploy/systemd/$1.$2"
}

# Copies the files of the package into the directory $1. The binaries come from $2.
lay_files() {
    local root=$1 bin=$2 pages=$1.pages name kind
    # This is the build of CI, so that nothing is built twice.
    cargo build --quiet --workspace --exclude bench --exclude drill --bins --locked
    target/debug/manual "$pages"
    install -d "$root"/usr/{bin,lib/systemd/system,lib/sysusers.d,share/man/man1} \
        "$root"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d} \
        "$root"/usr/share/doc/spiffe-jwt-proxy "$root"/etc/spiffe-jwt-proxy "$root"/DEBIAN
    for name in server proxy client; do
        install -m 0755 "$bin/$name" "$root/usr/bin/spiffe-jwt-$name"
        strip "$root/usr/bin/spiffe-jwt-$name"
        for kind in service socket; do
            unit "$name" "$kind" >"$root/usr/lib/systemd/system/spiffe-jwt-$name.$kind"
        done
        gzip --no-name --best <"$pages/spiffe-jwt-$name.1" >"$root/usr/share/man/man1/spiffe-jwt-$name.1.gz"
        install -m 0644 "$pages/spiffe-jwt-$name.bash" "$root/usr/share/bash-completion/completions/spiffe-jwt-$name"
        install -m 0644 "$pages/_spiffe-jwt-$name" "$root/usr/share/zsh/vendor-completions/"
        install -m 0644 "$pages/spiffe-jwt-$name.fish" "$root/usr/share/fish/vendor_completions.d/"
    done
    install -m 0644 LICENSE "$root/usr/share/doc/spiffe-jwt-proxy/copyright"
    install -m 0644 deploy/debian/users.conf "$root/usr/lib/sysusers.d/spiffe-jwt-proxy.conf"
    install -m 0755 deploy/debian/{postinst,prerm,postrm} "$root/DEBIAN/"
}

# control VERSION ARCHITECTURE KIB: prints the control file.
control() {
    cat <<CONTROL
Package: spiffe-jwt-proxy
Version: $1
Architecture: $2
Maintainer: The maintainers of spiffe-jwt-proxy <root@localhost>
Installed-Size: $3
Depends: libc6 (>= 2.34), systemd | systemd-standalone-sysusers
Section: net
Priority: optional
Description: SPIFFE identity across a hop that terminates TLS
 A server that authenticates its callers by SPIFFE JWT-SVID, a reverse proxy that
 verifies its upstream by SPIFFE ID, and a client that adds the token of its
 workload to the requests of applications.
CONTROL
}

# Installs the package $1 in a copy of this machine's files in the directory $2, runs what it installed, and purges
# it. It changes nothing on this machine, because the files are in memory and in a mount namespace of their own.
check() {
    local root=$2
    mkdir "$root"
    mount --types tmpfs tmpfs "$root"
    mkdir "$root"/{upper,work,root}
    mount --types overlay overlay --options "lowerdir=/,upperdir=$root/upper,workdir=$root/work" "$root/root"
    mount --types proc proc "$root/root/proc"
    cp "$1" "$root/root/tmp/package.deb"
    chroot "$root/root" /bin/bash -euo pipefail -s <<'INSIDE'
dpkg --install /tmp/package.deb
for name in server proxy client; do
    "spiffe-jwt-$name" --version
    id -u "$name-workload" >/dev/null
    test -s "/usr/share/man/man1/spiffe-jwt-$name.1.gz"
    bash -n "/usr/share/bash-completion/completions/spiffe-jwt-$name"
    systemd-analyze verify --man=no "/usr/lib/systemd/system/spiffe-jwt-$name.service" 2>&1 |
        { ! grep "spiffe-jwt-$name\."; }
done
dpkg --verify spiffe-jwt-proxy
echo 'SERVER_LISTEN=127.0.0.1:0' >/etc/spiffe-jwt-proxy/server.env
dpkg --purge spiffe-jwt-proxy
! ls /usr/bin/spiffe-jwt-* /usr/lib/systemd/system/spiffe-jwt-* /etc/spiffe-jwt-proxy 2>/dev/null
INSIDE
    echo "package.sh: installed, tried and purged"
}

main() {
    local bin=target/dist to=target/dist check=false version architecture stage package
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    while (($#)); do
        case $1 in
        -h | --help) usage && exit ;;
        --bin) bin=$2 && shift ;;
        --check) check=true ;;
        --inside) check "$2" "$3" && exit ;;
        -*) usage >&2 && exit 2 ;;
        *) to=$1 ;;
        esac
        shift
    done
    command -v dpkg-deb >/dev/null || fail 'dpkg-deb is missing: this needs Debian or Ubuntu'
    [[ -x $bin/server ]] || fail "$bin has no binaries: run scripts/release.sh, or name a directory with --bin"
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    architecture=$(dpkg --print-architecture)
    stage=$(mktemp -d)
    # shellcheck disable=SC2064 # the path is fixed now
    trap "rm -rf '$stage'" EXIT
    lay_files "$stage/files" "$bin"
    control "$version" "$architecture" "$(du --summarize --block-size=1K "$stage/files" | cut -f 1)" \
        >"$stage/files/DEBIAN/control"
    mkdir -p "$to"
    package=$to/spiffe-jwt-proxy_${version}_$architecture.deb
    dpkg-deb --root-owner-group --build "$stage/files" "$package"
    if $check; then
        ((EUID == 0)) || fail '--check needs root'
        unshare --mount --propagation private "$PWD/scripts/package.sh" --inside "$package" "$stage/root"
    fi
}

main "$@"
