#!/usr/bin/env bash
# Runs the demo, or any test binary, on the kernel of a Debian release: an emulated machine (qemu, without KVM) boots Debian's own
# kernel with an initramfs that holds busybox, the programs to run and the libraries that they need.
#
#   tests/vm/run.sh                             the demo on Debian 12's kernel
#   tests/vm/run.sh 13                          the demo on Debian 13's
#   tests/vm/run.sh 12 target/debug/deps/X...   these test binaries instead, one after the other
#
# The exit status is that of what ran: 0 if all was well, 124 if the machine did not end in time. Variables:
#
#   TORTIE_BIN          where `tortie` and `tortie-node` are (target/release)
#   TORTIE_VM_ARGS      arguments to each test binary, separated by blanks
#   TORTIE_VM_SECONDS   how long the machine may run (300)
#
# All is made below target/vm: the kernel and busybox are unpacked from Debian's packages and never installed; qemu is, when it is
# missing. The test binaries find nft and ip, from `make peers`, in the machine. No module is loaded by hand: the kernel asks for
# them as it does on an installed system. The machine has no network card and no disk. It is many times slower than
# this one, so on a busy machine probes may time out: give it a core of its own, and programs built for release.
set -euo pipefail
cd "$(dirname "$0")/../.."
release=${1:-12}
[ $# -eq 0 ] || shift
binaries=("$@")
seconds=${TORTIE_VM_SECONDS:-300}
bin=${TORTIE_BIN:-target/release}
vm=$PWD/target/vm

case $release in
    12) suites=(bookworm bookworm-security) ;;
    13) suites=(trixie trixie-security) ;;
    *) echo "usage: tests/vm/run.sh [12|13] [TEST BINARY...]: $release is no release that is known here" >&2; exit 2 ;;
esac
for program in "$bin/tortie" "$bin/tortie-node" "${binaries[@]}"; do
    [ -x "$program" ] || { echo "vm: $program is missing: run \`make build\`, or set TORTIE_BIN" >&2; exit 2; }
done

# Unpacks packages of the release, whatever this machine's own release is: apt gets package lists of its own.
apt=$vm/apt-$release
apt_options=(-o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$apt/lists"
    -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)
unpack() {
    local target=$1 package=$2 part
    part=$(mktemp -d -p "$vm")
    echo "vm: fetching $package of ${suites[0]}"
    (cd "$part" && apt-get "${apt_options[@]}" download -qq "$package") ||
        { rm -rf "$part"; echo "vm: $package of ${suites[0]} could not be fetched" >&2; return 2; }
    dpkg-deb -x "$part"/*.deb "$part/root"
    mv -T "$part/root" "$target"
    rm -rf "$part"
}
kernel=$vm/kernel-$release
busybox=$vm/busybox-$release/bin/busybox
if [ ! -d "$kernel" ] || [ ! -x "$busybox" ]; then
    mkdir -p "$apt"/{lists,cache/archives}/partial
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/%s main\n' \
        "debian ${suites[0]}" "debian-security ${suites[1]}" > "$apt/sources.list"
    apt-get "${apt_options[@]}" update -qq
    [ -d "$kernel" ] || unpack "$kernel" "$(apt-cache "${apt_options[@]}" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')"
    [ -x "$busybox" ] || unpack "$vm/busybox-$release" busybox-static
fi
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "vm: installing qemu-system-x86"
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    apt-cache show qemu-system-x86 >/dev/null 2>&1 || $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
fi

# The root file system.
root=$(mktemp -d -p "$vm")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,proc,sys,dev,run,tmp,etc,peers,tests,lib/modules}
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list | grep -vx busybox); do ln -s busybox "$root/bin/$applet"; done
ln -s ../bin/busybox "$root/sbin/modprobe"
# tcpdump wants to be somebody.
printf 'root:x:0:0:root:/:/bin/sh\n' > "$root/etc/passwd"
# By these names nft lists protocols.
printf '%s\t%s\n' icmp 1 tcp 6 udp 17 ipv6-icmp 58 sctp 132 udplite 136 > "$root/etc/protocols"

# A program with its libraries, under the names that the loader looks for.
install_program() {
    local target=$1 library
    shift
    strip -g -o "$target" "$1" 2>/dev/null || cp "$1" "$target"
    ldd "$1" | grep -o '/[^ ]*' | while read -r library; do
        [ -e "$root$library" ] || { mkdir -p "$root${library%/*}" && cp -L "$library" "$root$library"; }
    done
}
install_program "$root/bin/tortie" "$bin/tortie"
install_program "$root/bin/tortie-node" "$bin/tortie-node"
for binary in "${binaries[@]}"; do install_program "$root/tests/${binary##*/}" "$binary"; done
if [ ${#binaries[@]} -gt 0 ]; then
    tests/peers.sh
    libraries=$(find target/peers/files -name '*.so*' -printf '%h\n' | sort -u | sed "s|^|$PWD/|" | paste -sd:)
    for peer in nft ip tcpdump conntrack; do
        program=$(find target/peers/files -path "*bin/$peer" -type f | head -n 1)
        LD_LIBRARY_PATH=$libraries install_program "$root/peers/$peer.real" "$program"
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec /peers/%s.real "$@"\n' "$libraries" "$peer" > "$root/peers/$peer"
        chmod +x "$root/peers/$peer"
    done
fi

# The modules that networking can ask for.
modules=$(echo "$kernel"/lib/modules/*)
(cd "$modules" && find kernel/net kernel/lib kernel/crypto kernel/arch/x86/crypto kernel/drivers/net/{veth,dummy,bonding,vxlan}* -name '*.ko*' \
    -not -path '*/net/wireless/*' -not -path '*/net/bluetooth/*' -not -path '*/net/sunrpc/*' -not -path '*/net/ceph/*') |
    (cd "$modules" && "$busybox" cpio -o -H newc 2>/dev/null) |
    (mkdir "$root/lib/modules/${modules##*/}" && cd "$root/lib/modules/${modules##*/}" && "$busybox" cpio -i -d 2>/dev/null)
find "$root/lib/modules" -name '*.ko.xz' -exec "$busybox" unxz {} +
cp "$modules"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/${modules##*/}/"
"$busybox" depmod -b "$root" "${modules##*/}"

cat > "$root/init" <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
export PATH=/bin:/sbin HOME=/tmp TORTIE_PEERS=/peers TORTIE_BIN=/bin TORTIE_OWN_MACHINE=1 RUST_BACKTRACE=1
ip link set lo up
echo "vm: Linux $(uname -r), up after $(cut -d' ' -f1 /proc/uptime) s"
# A pipe is no terminal, so nothing is drawn.
run() {
    set -o pipefail
    "$@" 2>&1 | cat
}
status=0
ran=false
for test in /tests/*; do
    [ -x "$test" ] || continue
    ran=true
    echo "vm: ${test##*/}"
    run "$test" ARGUMENTS || status=$?
done
if ! $ran; then
    run tortie lab demo || status=$?
    if [ $status -ne 0 ]; then
        lsmod
        dmesg | tail -n 20
    fi
fi
echo "vm: modules loaded: $(lsmod | sed 1d | cut -d' ' -f1 | sort | tr '\n' ' ')"
echo "vm: ended with status $status after $(cut -d' ' -f1 /proc/uptime) s"
reboot -f
INIT
sed -i "s|ARGUMENTS|${TORTIE_VM_ARGS:-}|" "$root/init"
chmod +x "$root/init"
(cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) > "$root.cpio"
trap 'rm -rf "$root" "$root.cpio" "$root.log"' EXIT

# An emulated machine cannot tell a slow host from a hung one, so the host's clock bounds it.
code=0
timeout "$seconds" qemu-system-x86_64 -M microvm,acpi=off -accel tcg -cpu max -m 1536 -nodefaults -no-user-config -display none \
    -no-reboot -serial stdio -kernel "$kernel"/boot/vmlinuz-* -initrd "$root.cpio" \
    -append 'console=ttyS0 quiet reboot=t panic=-1' </dev/null | "$busybox" tr -d '\r' | tee "$root.log" || code=$?
[ $code -ne 124 ] || { echo "vm: the machine did not end within $seconds s" >&2; exit 124; }
status=$(sed -n 's/^vm: ended with status \([0-9]*\).*/\1/p' "$root.log")
[ -n "$status" ] || { echo "vm: the machine ended without saying how it went" >&2; exit 1; }
exit "$status"
