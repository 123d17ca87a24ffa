#!/usr/bin/env bash
# Compiles the programs of a real cluster (etcd, Kubernetes, upstream's end-to-end tests) from their published Go modules into
# target/peers/k8s/bin, and packs the two container images that pods of tests run into target/peers/k8s/images. What is there already
# is not built again. Nothing is installed.
#
#   tests/k8s/build.sh            what a cluster needs: five minutes on two cores
#   tests/k8s/build.sh api        only what an API server needs: etcd, kube-apiserver and kubectl
#   tests/k8s/build.sh e2e        upstream's e2e.test as well: five minutes more
#
# A Go toolchain is taken from the machine if it is new enough. An older one (1.19, as in Debian 12, is enough) fetches the one that
# go.mod asks for into target/peers/go; where there is none at all, Debian's is unpacked first.
set -euo pipefail
cd "$(dirname "$0")/../.."
peers=$PWD/target/peers
bin=$peers/k8s/bin
images=$peers/k8s/images
programs=$PWD/tests/k8s/programs
mkdir -p "$bin" "$images"

case ${1:-cluster} in
    api) kubernetes=(cmd/kube-apiserver cmd/kubectl) ;;
    cluster | e2e)
        kubernetes=(cmd/kube-apiserver cmd/kubectl cmd/kube-controller-manager cmd/kube-scheduler cmd/kube-proxy cmd/kubelet test/images/agnhost)
        ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# Prints the path of a `go` that can build the programs.
find_go() {
    local wanted release older dir
    wanted=$(sed -n 's/^go //p' "$programs/kubernetes/go.mod")
    enough() { [ "$(printf '%s\n' "$wanted" "$1" | sort -V | head -n 1)" = "$wanted" ]; }
    for older in "$peers/go/bin/go" "$(command -v go || true)" /usr/local/go/bin/go; do
        [ -x "$older" ] || continue
        release=$(cd / && GOTOOLCHAIN=local "$older" env GOVERSION)
        if enough "${release#go}"; then echo "$older"; return; fi
    done
    older=$(command -v go || true)
    if [ -z "$older" ]; then
        echo "k8s: unpacking Debian's Go, to fetch a newer one with it" >&2
        mkdir -p "$peers/go-debian"
        # golang-go is a metapackage: the toolchain itself is in golang-VERSION-go.
        release=$(apt-cache depends golang-go | sed -n 's/^ *Depends: \(golang-[0-9.]*-go\)$/\1/p' | head -n 1)
        [ -n "$release" ] || { echo "k8s: no package golang-go is known: run \`apt-get update\`, or install Go $wanted" >&2; exit 1; }
        (cd "$peers/go-debian" && rm -f ./*.deb && apt-get download -qq "$release" && dpkg-deb -x ./*.deb .)
        older=$(echo "$peers"/go-debian/usr/lib/go-*/bin/go)
    fi
    echo "k8s: fetching Go ${toolchain}" >&2
    dir=$(cd / && GOFLAGS=-modcacherw GOTOOLCHAIN=local "$older" mod download -json \
        "golang.org/toolchain@v0.0.1-go$toolchain.linux-$(dpkg --print-architecture)" | sed -n 's/.*"Dir": "\(.*\)",*/\1/p')
    [ -d "$dir" ] || { echo "k8s: Go $toolchain could not be fetched: install Go $wanted or later, or set GOPROXY" >&2; exit 1; }
    mkdir -p "$peers/go" && cp -R "$dir/." "$peers/go"
    # Modules hold no executable files, toolchains do.
    chmod -R u+w "$peers/go" && chmod +x "$peers"/go/bin/* "$peers"/go/pkg/tool/*/*
    echo "$peers/go/bin/go"
}
# A release that builds the modules; go.mod only says the oldest that would.
toolchain=1.26.8

# Builds a package of a module below tests/k8s/programs, if the program is not there.
go=
compile() {
    local module=$1 package=$2 name=$3 command=$4
    shift 4
    [ ! -x "$bin/$name" ] || return 0
    [ -n "$go" ] || go=$(find_go)
    echo "k8s: compiling $name"
    # Into a file of its own first, so that an interrupted build leaves nothing that looks whole.
    (cd "$programs/$module" && CGO_ENABLED=0 GOTOOLCHAIN=local "$go" "$command" "$@" -o "$bin/.$name" "$package")
    mv "$bin/.$name" "$bin/$name"
}

version=$(sed -n 's/^require k8s.io\/kubernetes v//p' "$programs/kubernetes/go.mod")
minor=${version#1.}
stamp="-s -w -X k8s.io/component-base/version.gitVersion=v$version -X k8s.io/client-go/pkg/version.gitVersion=v$version
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*}"

compile etcd go.etcd.io/etcd/server/v3 etcd build -ldflags '-s -w'
for package in "${kubernetes[@]}"; do
    compile kubernetes "k8s.io/kubernetes/$package" "${package##*/}" build -ldflags "$stamp"
done
[ "${1:-}" != e2e ] || compile kubernetes k8s.io/kubernetes/test/e2e e2e.test test -c -ldflags "$stamp"
[ "${1:-}" != api ] || exit 0

# What holds a pod's namespaces open: it does nothing, for as long as it may.
if [ ! -x "$bin/pause" ]; then
    printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' | cc -static -O2 -x c -o "$bin/pause" -
fi
# By the names that the kubelet and upstream's tests ask for.
image() {
    local name=$1 root
    [ ! -e "$images/$name.tar" ] || return 0
    root=$(mktemp -d)
    cp "$bin/$name" "$root/$name"
    cargo run --quiet --locked -p tortie-image -- "$images/$name.tar" "$root" --name "$2" --entrypoint "/$name"
    rm -r "$root"
}
image pause registry.k8s.io/pause:3.10.2
image agnhost registry.k8s.io/e2e-test-images/agnhost:2.63.0
