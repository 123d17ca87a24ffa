#!/usr/bin/env bash
# Lays out the files of the agent's image: build.sh FOLDER [PROGRAMS]. The programs are built here, static, so that there is nothing
# else in it. Those of a folder PROGRAMS, as `cargo build` leaves them, are taken as they are, with the libraries that they need: not
# what to install, but made in seconds, for tests.
set -euo pipefail
[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: deploy/image/build.sh FOLDER [PROGRAMS]" >&2; exit 2; }
cd "$(dirname "$0")/../.."
root=$1
programs=${2:-}
if [ -z "$programs" ]; then
    host=$(rustc -vV | sed -n 's/^host: //p')
    # Named, so that flags for the programs are not meant for what builds them.
    RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=symbols \
        cargo build --release --locked --target "$host" -p tortie-node -p tortie-ctl
    programs=target/$host/release
fi

rm -rf "$root"
mkdir -p "$root"/usr/{bin,sbin} "$root/var"
cp "$programs/tortie-node" "$programs/tortie" "$root/usr/bin/"
if [ $# -eq 2 ]; then
    strip --strip-debug "$root"/usr/bin/*
    ldd "$root"/usr/bin/* | grep -o '/[^ ]*lib[^ ]*' | grep -v ':$' | sort -u | xargs -I{} cp --parents -L {} "$root"
fi
# Programs of the machine that the agent calls (docs/adr/0022-tools-of-the-host.md).
for tool in firewall-cmd {iptables,ip6tables}{,-legacy,-nft}; do ln -s ../bin/tortie-node "$root/usr/sbin/$tool"; done
# Runtimes speak of namespaces in either.
ln -s /run "$root/var/run"
