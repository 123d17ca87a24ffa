#!/usr/bin/env bash
# Unpacks the programs that tests compare us with (nft, BIRD, iproute2 ...) or run clusters with (containerd ...) from Debian's packages
# into target/peers, with a wrapper for each in target/peers/bin. Nothing is installed and no service starts. Packages whose libraries are missing bring them along.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=$PWD/target/peers
files=$peers/files
packages=(containerd runc openssl nftables iproute2 bird2 conntrack tcpdump iptables ipset dbus-daemon python3-firewall python3-nftables python3-dbus python3-gi gir1.2-glib-2.0)
# Scripts, which need nothing that is not above; what they name as needed besides (polkit, debconf) is for desktops and installation.
scripts=(ufw firewalld)
# Other BGP speakers, with the libraries that they need and others do not: what else they depend on is for installation as a service.
speakers=(gobgpd frr libyang2 libjson-c5 libpcre2-8-0 libcap2 libreadline8)
stamp="$peers/.done-$(printf '%s\n' "$files" "${packages[@]}" "${scripts[@]}" "${speakers[@]}" "$(dpkg --print-architecture)" | sha1sum | cut -c1-12)"
[ -e "$stamp" ] && exit 0
command -v apt-get >/dev/null || { echo "tests/peers.sh needs a Debian-like system (apt-get)" >&2; exit 1; }

mkdir -p "$peers/debs" "$peers/bin"
if ! apt-cache show bird2 >/dev/null 2>&1; then
    echo "peers: reading the package lists"
    apt-get update -qq
fi
# Every package and those it needs, less what is installed already: an installed library is found by the loader anyway.
mapfile -t wanted < <(
    { printf '%s\n' "${packages[@]}"
      apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances --no-pre-depends "${packages[@]}" |
          sed -n 's/^ *|\?Depends: \([^<]*\)$/\1/p'; } | sort -u |
        while read -r name; do
            if [[ " ${packages[*]} " == *" $name "* ]] || { [[ $name == lib* ]] && ! dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed'; }; then
                echo "$name"
            fi
        done
)
wanted+=("${scripts[@]}" "${speakers[@]}")
echo "peers: fetching ${wanted[*]}"
(cd "$peers/debs" && rm -f ./*.deb && apt-get download -qq "${wanted[@]}" 2>&1 | grep -v '^W:' || true)
for name in "${packages[@]}" "${scripts[@]}" "${speakers[@]}"; do
    ls "$peers"/debs/"${name}"_*.deb >/dev/null 2>&1 || { echo "peers: package $name could not be fetched" >&2; exit 1; }
done
for deb in "$peers"/debs/*.deb; do dpkg-deb -x "$deb" "$files"; done

libraries=$(find "$files" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
extensions=$(find "$files" -type d -name xtables -print -quit)
for directory in usr/lib/frr usr/sbin sbin usr/bin bin; do
    for program in "$files/$directory"/*; do
        [ -f "$program" ] && [ -x "$program" ] || continue
        wrapper="$peers/bin/$(basename "$program")"
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s XTABLES_LIBDIR=%s exec %s "$@"\n' "$libraries" "$extensions" "$program" > "$wrapper"
        chmod +x "$wrapper"
    done
done
for program in containerd ctr runc openssl nft ip bird birdc conntrack tcpdump iptables-nft iptables-legacy ip6tables-nft ip6tables-legacy ipset dbus-daemon ufw firewalld gobgpd gobgp bgpd vtysh; do
    [ -x "$peers/bin/$program" ] || { echo "peers: $program is missing after unpacking" >&2; exit 1; }
done
touch "$stamp"
