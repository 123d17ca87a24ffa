# Nodes: each a process that holds a network and a mount namespace of its own, with containerd, kubelet and kube-proxy inside.
#
# What a DaemonSet reaches by hostPath is the node's: /etc, /opt, /run, /var/lib and /var/log. Everything that runs on a node is in one
# cgroup, so that nothing of it can be left behind.

# A bridge, which is the network between nodes and the outside world, and where the control plane is; the nodes on it.
fabric() {
    local n node
    ip netns add "$K8S_NAME"
    ip -n "$K8S_NAME" link set lo up
    ip -n "$K8S_NAME" link add br0 type bridge
    ip -n "$K8S_NAME" address add "$K8S_SUBNET.1/24" dev br0
    ip -n "$K8S_NAME" address add "$K8S_SUBNET6::1/64" dev br0 nodad
    ip -n "$K8S_NAME" link set br0 up
    forward "$K8S_NAME"
    for n in $(seq "$K8S_NODES"); do
        node=$K8S_NAME-n$n
        ip netns add "$node"
        ip -n "$node" link set lo up
        ip link add eth0 netns "$node" type veth peer name "p$n" netns "$K8S_NAME"
        ip -n "$K8S_NAME" link set "p$n" master br0 up
        ip -n "$node" link set eth0 up
        ip -n "$node" address add "$K8S_SUBNET.$((10 + n))/24" dev eth0
        ip -n "$node" address add "$K8S_SUBNET6::$((10 + n))/64" dev eth0 nodad
        ip -n "$node" route add default via "$K8S_SUBNET.1"
        ip -n "$node" -6 route add default via "$K8S_SUBNET6::1"
        forward "$node"
    done
}

forward() { ip netns exec "$1" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'; }

in_node() {
    local n=$1 pid
    shift
    pid=$(pid_of "n$n") || fail "node $n does not run"
    nsenter -t "$pid" -m -n -- "$@"
}

# The mount points of cgroup hierarchies: several in version 1, one in version 2.
hierarchies() { sed -n 's/^[^ ]* \([^ ]*\) cgroup2\{0,1\} .*/\1/p' /proc/mounts | grep '^/sys/fs/cgroup'; }

# Makes the node's cgroups, with whatever its kubelet may hand out.
make_cgroups() {
    local hierarchy file
    for hierarchy in $(hierarchies); do
        if [ -e "$hierarchy/cgroup.controllers" ]; then
            sed 's/[^ ]*/+&/g' "$hierarchy/cgroup.controllers" >"$hierarchy/cgroup.subtree_control" 2>/dev/null || true
        fi
        mkdir -p "$hierarchy/$1/node"
        # A cpuset is empty until it is told otherwise.
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$hierarchy/$file" ]; then
                cat "$hierarchy/$file" >"$hierarchy/$1/$file"
                cat "$hierarchy/$file" >"$hierarchy/$1/node/$file"
            fi
        done
    done
}

# The script that becomes a node: $1 its cgroup, $2 its folder. It joins the cgroup, lays folders of its own over the machine's, and stays.
become_node='
    set -e
    for hierarchy in $(sed -n "s/^[^ ]* \([^ ]*\) cgroup2\{0,1\} .*/\1/p" /proc/mounts | grep "^/sys/fs/cgroup"); do
        echo $$ >"$hierarchy/$1/node/cgroup.procs"
    done
    for folder in etc opt; do
        mkdir -p "$2/$folder" "$2/work-$folder"
        mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$2/$folder,workdir=$2/work-$folder" "/$folder"
    done
    # Real folders, since containerd makes overlays of its own in them.
    for folder in lib log; do
        mkdir -p "$2/var-$folder"
        mount --bind "$2/var-$folder" "/var/$folder"
    done
    mount -t tmpfs tmpfs /run
    mkdir -p /run/netns /run/containerd /etc/cni/net.d /opt/cni/bin /var/lib/kubelet /var/lib/containerd /var/log/pods
    # Of this network namespace, so that interfaces can be seen there; cgroups come along.
    mkdir -p "$2/cgroup"
    mount --rbind /sys/fs/cgroup "$2/cgroup"
    mount -t sysfs sysfs /sys
    mount --rbind "$2/cgroup" /sys/fs/cgroup
    mount -t bpf bpf /sys/fs/bpf 2>/dev/null || true
    mount --make-rshared /
    echo ready >"$2/ready"
    exec sleep infinity
'

node() {
    local n=$1 folder=$state/n$1 cgroup=$K8S_NAME-n$1 address=$K8S_SUBNET.$((10 + $1)) address6=$K8S_SUBNET6::$((10 + $1))
    mkdir -p "$folder/var-lib"
    make_cgroups "$cgroup"
    spawn "n$n" nsenter --net="/run/netns/$cgroup" unshare -m --propagation private sh -c "$become_node" - "$cgroup" "$folder"
    await 10 test -e "$folder/ready" || fail "node $n does not start: see $state/log/n$n.log"

    cat >"$folder/containerd.toml" <<TOML
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10.2"
  # Not everywhere may we lower it.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
TOML
    spawn_on_node "$n" containerd containerd -c "$folder/containerd.toml" -l warn
    await 60 in_node "$n" ctr version || fail "containerd of node $n does not answer: see $state/log/n$n-containerd.log"
    local image
    for image in "$peers"/k8s/images/*.tar; do in_node "$n" ctr -n k8s.io images import "$image" >/dev/null; done

    issue "n$n" "/O=system:nodes/CN=system:node:n$n" "DNS:n$n,IP:$address,IP:$address6"
    credentials "$state/n$n.kubeconfig" "n$n"
    cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/n$n.crt
tlsPrivateKeyFile: $state/pki/n$n.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
# The machine's disk is not the test's business, nor may images go that no registry here could bring back.
evictionHard: {memory.available: 1Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 200
resolvConf: ""
YAML
    spawn_on_node "$n" kubelet kubelet --config "$folder/kubelet.yaml" --kubeconfig "$state/n$n.kubeconfig" --hostname-override "n$n" \
        --node-ip "$address,$address6"
    [ "$K8S_PROXY" != none ] || return 0
    # It must not size the connection table, which is the machine's.
    spawn_on_node "$n" proxy kube-proxy --kubeconfig "$state/proxy.kubeconfig" --hostname-override "n$n" --proxy-mode "$K8S_PROXY" \
        --cluster-cidr "$K8S_POD_CIDRS" --nodeport-addresses=primary --conntrack-max-per-core=0 --conntrack-min=0 \
        --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
}

# A program in a node's namespaces and its cgroup.
spawn_on_node() {
    local n=$1 name=$2 joined='for file in $(ls -d /sys/fs/cgroup/"$1"/node/cgroup.procs /sys/fs/cgroup/*/"$1"/node/cgroup.procs 2>/dev/null)
        do echo $$ >"$file"; done; shift; exec "$@"'
    shift 2
    spawn "n$n-$name" nsenter -t "$(pid_of "n$n")" -m -n -- sh -c "$joined" - "$K8S_NAME-n$n" "$@"
}

# Ends whatever is left in the cgroups of nodes, containers' processes too, and removes what nodes are made of.
remove_nodes() {
    local n node hierarchy tries
    for n in $(seq "$K8S_NODES"); do
        node=$K8S_NAME-n$n
        for tries in $(seq 20); do
            left=$(for hierarchy in $(hierarchies); do
                [ ! -d "$hierarchy/$node" ] || find "$hierarchy/$node" -name cgroup.procs -exec cat {} +
            done | sort -u)
            [ -n "$left" ] || break
            # shellcheck disable=SC2086
            kill -9 $left 2>/dev/null || true
            sleep 0.2
        done
        for hierarchy in $(hierarchies); do
            [ ! -d "$hierarchy/$node" ] || find "$hierarchy/$node" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
        [ ! -e "/run/netns/$node" ] || ip netns delete "$node"
    done
    [ ! -e "/run/netns/$K8S_NAME" ] || ip netns delete "$K8S_NAME"
}
