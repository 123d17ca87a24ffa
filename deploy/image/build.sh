#!/usr/bin/env bash
# Lays out the root of the agent's image: build.sh FOLDER. The programs are static, so there is nothing else in it.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: deploy/image/build.sh FOLDER" >&2; exit 2; }
cd "$(dirname "$0")/../.."
root=$1
host=$(rustc -vV | sed -n 's/^host: //p')
# Named, so that flags for the programs are not meant for what builds them.
RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=symbols \
    cargo build --release --locked --target "$host" -p tortie-node -p tortie-ctl

rm -rf "$root"
mkdir -p "$root"/usr/{bin,sbin} "$root/var"
cp "target/$host/release/tortie-node" "target/$host/release/tortie" "$root/usr/bin/"
# Programs of the machine that the agent calls (docs/adr/0022-tools-of-the-host.md).
for tool in firewall-cmd {iptables,ip6tables}{,-legacy,-nft}; do ln -s ../bin/tortie-node "$root/usr/sbin/$tool"; done
# Runtimes speak of namespaces in either.
ln -s /run "$root/var/run"
