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
# them as it does on an installed system. The machine has no network card and no disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
release=${1:-12}
[ $# -eq 0 ] || shift
binaries=("$@")
seconds=${TORTIE_VM_SECONDS:-300}
bin=${TORTIE_BIN:-target/release}
vm=$PWD/target/vm

case $release in
    12) version='6\.1\.[0-9.-]*' ;;
    13) version='6\.12\.[0-9.]*+deb1[23][0-9.]*' ;;
    *) echo "usage: tests/vm/run.sh [12|13] [TEST BINARY...]: $release is no release that is known here" >&2; exit 2 ;;
esac
for program in "$bin/tortie" "$bin/tortie-node" "${binaries[@]}"; do
    [ -x "$program" ] || { echo "vm: $program is missing: run \`make build\`, or set TORTIE_BIN" >&2; exit 2; }
done

# What Debian has: the newest kernel of the release, busybox, and the machine itself.
fetch() {
    mkdir -p "$vm/debs"
    rm -f "$vm/debs/$1"_*.deb
    echo "vm: fetching $1"
    (cd "$vm/debs" && apt-get download -qq "$1" 2>&1 | grep -v '^W:' || true)
    rm -rf "$2"
    dpkg-deb -x "$vm/debs/$1"_*.deb "$2.part" && mv "$2.part" "$2"
}
need_lists() {
    apt-cache show busybox-static >/dev/null 2>&1 || apt-get update -qq
}
kernel=$vm/kernel-$release
if [ ! -d "$kernel" ]; then
    need_lists
    package=$(apt-cache pkgnames linux-image- | grep -x "linux-image-${version}-cloud-amd64" | sort -V | tail -n 1)
    [ -n "$package" ] || { echo "vm: the package lists know no kernel of Debian $release" >&2; exit 2; }
    fetch "$package" "$kernel"
fi
[ -d "$vm/busybox" ] || { need_lists; fetch busybox-static "$vm/busybox"; }
busybox=$vm/busybox/bin/busybox
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "vm: installing qemu-system-x86"
    need_lists
    apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
fi

# The root file system.
root=$(mktemp -d "$vm/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,proc,sys,dev,run,tmp,etc,peers,tests,lib/modules}
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list | grep -vx busybox); do ln -s busybox "$root/bin/$applet"; done
ln -s ../bin/busybox "$root/sbin/modprobe"

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
    libraries=$(find target/peers/root -name '*.so*' -printf '%h\n' | sort -u | sed "s|^|$PWD/|" | paste -sd:)
    for peer in nft ip; do
        program=$(find target/peers/root -path "*bin/$peer" -type f | head -n 1)
        LD_LIBRARY_PATH=$libraries install_program "$root/peers/$peer.real" "$program"
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec /peers/%s.real "$@"\n' "$libraries" "$peer" > "$root/peers/$peer"
        chmod +x "$root/peers/$peer"
    done
fi

# The modules that networking can ask for.
modules=$(echo "$kernel"/lib/modules/*)
(cd "$modules" && find kernel/net kernel/lib kernel/crypto kernel/arch/x86/crypto kernel/drivers/net/{veth,dummy,bonding}* -name '*.ko*' \
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
export PATH=/bin:/sbin HOME=/tmp TORTIE_PEERS=/peers RUST_BACKTRACE=1
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
