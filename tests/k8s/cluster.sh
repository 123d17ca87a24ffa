#!/usr/bin/env bash
# A real Kubernetes cluster on this machine, without installing anything: nodes are network and mount namespaces, programs are those
# of tests/k8s/build.sh and containerd and runc of Debian (`make peers`). Needs root.
#
#   cluster.sh up                 control plane and nodes; the nodes stay NotReady until an agent brings a CNI configuration
#   cluster.sh api-only           etcd and the API server alone, in seconds: on loopback, or in the network namespace K8S_NETNS
#   cluster.sh kubectl ARGS...    kubectl as administrator
#   cluster.sh token NS NAME      a kubeconfig for a service account, on standard output
#   cluster.sh node N CMD...      a command inside the Nth node's namespaces
#   cluster.sh image FILE         loads an image archive into every node's containerd
#   cluster.sh stop|start NAME    ends or starts again one program: etcd, apiserver, controller-manager, scheduler, n1-kubelet ...
#   cluster.sh save DIR           keeps the datastore as it is now; `restore DIR` goes back to it
#   cluster.sh e2e [REGEXP]       upstream's specs, by default those of NetworkPolicy without SCTP; output below the state folder
#   cluster.sh down               ends all of it and removes what it made
#
# Several clusters can live at once; these tell them apart:
#
#   K8S_NAME      prefix of names of namespaces and cgroups (tortie-k8s)
#   K8S_STATE     folder for everything it writes (target/k8s/NAME); state/kubeconfig is the administrator's
#   K8S_SUBNET    first three numbers of the nodes' addresses (172.29.0): the control plane is .1, the nodes are .11, .12 ...
#   K8S_SUBNET6   the same for IPv6 (fd29)
#   K8S_NODES     how many nodes (2)
#   K8S_POD_CIDRS, K8S_SERVICE_CIDRS   dual stack by default: 10.244.0.0/16,fd00:10:244::/48 and 10.96.0.0/16,fd00:10:96::/112
#   K8S_PROXY     kube-proxy's mode (nftables), or `none`
#   K8S_NETNS, K8S_ADDRESS, K8S_PORT   for api-only: where the API server listens (this namespace, 127.0.0.1, a free port)
#   K8S_OWNER     a process: when it ends, however that happens, the cluster goes down by itself
#   K8S_APISERVER_FLAGS   further flags of kube-apiserver
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
peers=$root/target/peers
bin=$peers/k8s/bin
export PATH=$bin:$peers/bin:$PATH

: "${K8S_NAME:=tortie-k8s}" "${K8S_STATE:=$root/target/k8s/$K8S_NAME}" "${K8S_NODES:=2}" "${K8S_PROXY:=nftables}"
: "${K8S_SUBNET:=172.29.0}" "${K8S_SUBNET6:=fd29}"
: "${K8S_POD_CIDRS:=10.244.0.0/16,fd00:10:244::/48}" "${K8S_SERVICE_CIDRS:=10.96.0.0/16,fd00:10:96::/112}"
export K8S_NAME K8S_STATE
state=$K8S_STATE

for part in programs certificates control-plane nodes e2e; do
    # shellcheck source=/dev/null
    . "$here/lib/$part.sh"
done

fail() { echo "k8s: $*" >&2; exit 1; }

# Waits up to so many seconds for a command to succeed.
await() {
    local seconds=$1 deadline
    shift
    deadline=$(($(date +%s) + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

prepare() {
    [ "$(id -u)" -eq 0 ] || fail "needs root, for namespaces: run it with sudo"
    for program in "$@"; do
        command -v "$program" >/dev/null || fail "$program is missing: run \`make peers\` and tests/k8s/build.sh"
    done
    [ ! -e "$state/run" ] || fail "$state holds a cluster already: \`cluster.sh down\` first, or set K8S_NAME"
    mkdir -p "$state"/{run,log}
    [ -z "${K8S_OWNER:-}" ] || watch_owner
}

up() {
    prepare etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy containerd runc openssl ip
    K8S_NETNS=$K8S_NAME K8S_ADDRESS=$K8S_SUBNET.1 K8S_PORT=6443
    fabric
    api_server
    controllers
    local n
    for n in $(seq "$K8S_NODES"); do node "$n"; done
    registered() { [ "$(as_admin get nodes -o name | wc -l)" -eq "$K8S_NODES" ]; }
    await 60 registered || fail "not every node has registered within a minute: see $state/log/n*-kubelet.log"
    as_admin get nodes -o wide
}

api_only() {
    prepare etcd kube-apiserver kubectl openssl
    : "${K8S_ADDRESS:=127.0.0.1}" "${K8S_PORT:=$(free_port)}"
    # Nobody makes service accounts for namespaces here, and pods must not wait for one.
    K8S_APISERVER_FLAGS="--disable-admission-plugins=ServiceAccount ${K8S_APISERVER_FLAGS:-}" api_server
    echo "$state/kubeconfig"
}

down() {
    [ -d "$state" ] || return 0
    end_programs
    remove_nodes
    rm -rf "$state"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    up) up ;;
    api-only) api_only ;;
    kubectl) as_admin "$@" ;;
    token) account_kubeconfig "$@" ;;
    node) n=$1; shift; in_node "$n" "$@" ;;
    # From inside a node the working folder is another.
    image) image=$(realpath "$1"); for n in $(seq "$K8S_NODES"); do in_node "$n" ctr -n k8s.io images import "$image"; done ;;
    stop) stop_program "$1" ;;
    start) start_program "$1"; [ "$1" != apiserver ] || await_api_server ;;
    save) save_datastore "$1" ;;
    restore) restore_datastore "$1" ;;
    e2e) e2e "$@" ;;
    down) down ;;
    *) sed -n '2,32s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
