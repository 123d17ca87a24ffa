# How a load test starts Tortie as a BGP speaker, with the ordinary resources: for programs that source it, such as a comparison of
# speakers. `start_tortie [SENDERS RECEIVERS]` (or the variables S and R) listens on 127.0.0.1:1790 as AS 65000, with a peer at 127.1.0.N for each, and sets PID; the
# process is the agent itself, which writes no route (it runs its component `bgp` alone). MODE=ebgp: senders are AS 65001 and up,
# receivers AS 65501 and up, and next hops are kept. MODE=rr: all are of AS 65000, and its clients.
tortie_node=${TORTIE_NODE_PROGRAM:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/release/tortie-node}

start_tortie() {
  local senders=${1:-$S} receivers=${2:-$R} place number as reflector=''
  place=$(mktemp -d "${work:-/tmp}/tortie-XXXXXX")
  mkdir "$place/datastore"
  [ "${MODE:-ebgp}" = rr ] && reflector=', projectcalico.org/RouteReflectorClusterID: 10.255.0.1'
  {
    printf '{apiVersion: v1, kind: Node, metadata: {name: speaker, annotations: {projectcalico.org/IPv4Address: 10.255.0.1/32, projectcalico.org/IPv6Address: "fd00:ff::1/128"%s}}}\n---\n' "$reflector"
    printf '{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {asNumber: 65000, listenPort: 1790, nodeToNodeMeshEnabled: false}}\n'
    for number in $(seq $((senders + receivers))); do
      as=65000
      if [ -z "$reflector" ]; then as=$((number <= senders ? 65000 + number : 65500 + number - senders)); fi
      printf -- '---\n{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: peer-%s}, spec: {peerIP: 127.1.0.%s, asNumber: %s, nextHopMode: Keep, sourceAddress: None}}\n' "$number" "$number" "$as"
    done
  } > "$place/datastore/speaker.yaml"
  "$tortie_node" run --datastore "dir:$place/datastore" --node speaker --run-dir "$place/run" --components bgp > "$place/log" 2>&1 &
  PID=$!
}
