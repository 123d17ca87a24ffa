# etcd, the API server, and the controllers that make nodes and pods of what it holds.

# A port of loopback that nothing listens on. Another may take it before we do; then the API server says so and ends.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

# Runs a command where the control plane is.
in_control() {
    local netns
    netns=$(cat "$state/netns" 2>/dev/null || true)
    if [ -n "$netns" ]; then nsenter --net="/run/netns/$netns" "$@"; else "$@"; fi
}

as_admin() { in_control kubectl --kubeconfig "$state/kubeconfig" "$@"; }

spawn_in_control() {
    local name=$1 netns
    shift
    netns=$(cat "$state/netns")
    if [ -n "$netns" ]; then spawn "$name" nsenter --net="/run/netns/$netns" "$@"; else spawn "$name" "$@"; fi
}

first_service_address() { sed 's/,.*//; s|0/[0-9]*$|1|; s|/[0-9]*$|1|' <<<"$K8S_SERVICE_CIDRS"; }

api_server() {
    local host=$K8S_ADDRESS etcd=unix://etcd.sock peer=unix://etcd-peer.sock
    [[ $host != *:* ]] || host="[$host]"
    echo "$host:$K8S_PORT" >"$state/endpoint"
    echo "${K8S_NETNS:-}" >"$state/netns"
    authority
    issue apiserver /CN=kube-apiserver \
        "IP:$K8S_ADDRESS,IP:127.0.0.1,IP:$(first_service_address),DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    issue admin /O=system:masters/CN=admin
    credentials "$state/kubeconfig" admin
    # By socket files in the state folder, where all programs are started, so that clusters never meet at a port. What a killed process wrote is in the kernel's hands: no need to wait for
    # the disk.
    spawn_in_control etcd etcd --name tests --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
        --initial-cluster "tests=$peer"
    # shellcheck disable=SC2086
    spawn_in_control apiserver kube-apiserver --etcd-servers="$etcd" \
        --bind-address="$K8S_ADDRESS" --advertise-address="$K8S_ADDRESS" --secure-port="$K8S_PORT" \
        --service-cluster-ip-range="$K8S_SERVICE_CIDRS" --allow-privileged --authorization-mode=Node,RBAC \
        --client-ca-file="$state/pki/ca.crt" --tls-cert-file="$state/pki/apiserver.crt" --tls-private-key-file="$state/pki/apiserver.key" \
        --kubelet-client-certificate="$state/pki/admin.crt" --kubelet-client-key="$state/pki/admin.key" \
        --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$state/pki/accounts.pub" --service-account-signing-key-file="$state/pki/accounts.key" \
        --enable-admission-plugins=NodeRestriction ${K8S_APISERVER_FLAGS:-}
    await_api_server
}

await_api_server() {
    ready() {
        pid_of apiserver >/dev/null || fail "kube-apiserver has ended: $(tail -n 3 "$state/log/apiserver.log")"
        as_admin get --raw /readyz
    }
    await 90 ready || fail "the API server is not ready after 90 s: see $state/log/apiserver.log and etcd.log"
}

controllers() {
    issue controller-manager /CN=system:kube-controller-manager
    issue scheduler /CN=system:kube-scheduler
    issue proxy /CN=system:kube-proxy
    local who
    for who in controller-manager scheduler proxy; do credentials "$state/$who.kubeconfig" "$who"; done
    spawn_in_control controller-manager kube-controller-manager --kubeconfig "$state/controller-manager.kubeconfig" \
        --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials --root-ca-file="$state/pki/ca.crt" \
        --service-account-private-key-file="$state/pki/accounts.key" --allocate-node-cidrs --cluster-cidr="$K8S_POD_CIDRS" \
        --service-cluster-ip-range="$K8S_SERVICE_CIDRS"
    spawn_in_control scheduler kube-scheduler --kubeconfig "$state/scheduler.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false
    as_admin create clusterrolebinding kube-proxy --clusterrole=system:node-proxier --user=system:kube-proxy >/dev/null
}

# etcd stands still while its files are copied; the API server waits for it.
save_datastore() {
    [ ! -e "$1" ] || fail "$1 is there already"
    stop_program etcd
    cp -a "$state/etcd" "$1"
    start_program etcd
    await_api_server
}

restore_datastore() {
    [ -d "$1/member" ] || fail "$1 holds nothing that \`cluster.sh save\` kept"
    stop_program apiserver
    stop_program etcd
    rm -rf "$state/etcd"
    cp -a "$1" "$state/etcd"
    start_program etcd
    start_program apiserver
    await_api_server
}
