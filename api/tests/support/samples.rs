//! A valid object of every kind, with every field of what people write: what other tests start from.

use serde_json::{Value, json};

pub(crate) fn valid() -> Vec<Value> {
    vec![
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {
            "podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}}], "ports": [{"port": 80, "endPort": 90, "protocol": "UDP"}]}],
            "egress": [{"to": [{"namespaceSelector": {}}]}], "policyTypes": ["Egress"]}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}, "data": {"a": "aHVudGVyMg=="}, "stringData": {"b": "c"}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"a": "b"}}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": "default"}, "spec": {"failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22}]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {"cni.projectcalico.org/ipAddrs": "[\"10.0.0.1\"]"}}, "spec": {"nodeName": "n", "hostNetwork": false, "containers": [{"name": "c", "ports": [{"name": "h", "containerPort": 80, "protocol": "TCP"}]}], "initContainers": []}, "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "annotations": {"projectcalico.org/IPv4Address": "10.0.0.1/8"}}, "spec": {"podCIDRs": ["10.0.0.0/24"]}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/8", "blockSize": 26, "ipipMode": "Never", "natOutgoing": true, "allowedUses": ["Workload"], "nodeSelector": "all()"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": {"name": "default"}, "spec": {"asNumber": 64512, "listenPort": 179, "nodeToNodeMeshEnabled": true, "logSeverityScreen": "Info"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "tier.p", "namespace": "n"}, "spec": {
            "tier": "tier", "order": 12.5, "selector": "a == 'b' && !has(c)", "serviceAccountSelector": "has(d)", "types": ["Ingress", "Egress"], "performanceHints": ["AssumeNeededOnEveryNode"],
            "ingress": [
                {"action": "Allow", "protocol": "TCP", "notProtocol": 17, "ipVersion": 4, "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"], "selector": "all()", "notSelector": "a in {'b'}", "namespaceSelector": "global()", "serviceAccounts": {"names": ["s"], "selector": "a == 'b'"}}, "destination": {"ports": [80, "http", "1:2"], "notPorts": [81]}},
                {"action": "Log", "protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}, "notICMP": {"type": 1}, "metadata": {"annotations": {"a": "b"}}},
                {"action": "Pass", "source": {"services": {"name": "s", "namespace": "n"}}}],
            "egress": [{"action": "Deny", "destination": {"services": {"name": "s"}}}]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "g"}, "spec": {"namespaceSelector": "has(a)", "doNotTrack": true, "applyOnForward": true, "ingress": [{"action": "Allow", "protocol": 6, "destination": {"ports": ["22"]}}]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "StagedNetworkPolicy", "metadata": {"name": "s"}, "spec": {"stagedAction": "Set", "egress": [{"action": "Deny"}]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "StagedGlobalNetworkPolicy", "metadata": {"name": "s"}, "spec": {"stagedAction": "Delete", "tier": "t"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "StagedKubernetesNetworkPolicy", "metadata": {"name": "s"}, "spec": {"stagedAction": "Learn", "podSelector": {}, "ingress": [{"ports": [{"port": 80}]}], "policyTypes": ["Ingress"]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "t"}, "spec": {"order": 7, "defaultAction": "Pass"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkSet", "metadata": {"name": "s", "labels": {"a": "b"}}, "spec": {"nets": ["10.0.0.1", "fd00::/8"]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": "s"}, "spec": {"nets": ["10.0.0.0/8"]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "h"}, "spec": {"node": "n", "interfaceName": "eth0", "expectedIPs": ["10.0.0.1"], "profiles": ["p"], "ports": [{"name": "ssh", "protocol": "TCP", "port": 22}]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "p"}, "spec": {"ingress": [{"action": "Allow"}], "egress": [{"action": "Deny", "protocol": 255}], "labelsToApply": {"a": "b"}}}),
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "c"}, "spec": {"tier": "Admin", "priority": 10, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}},
            "ingress": [{"name": "i", "action": "Pass", "from": [{"namespaces": {}}, {"pods": {"podSelector": {}}}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {"destinationPort": {"range": {"start": 1, "end": 2}}}}, {"destinationNamedPort": "http"}]}],
            "egress": [{"action": "Accept", "to": [{"networks": ["10.0.0.0/8"]}, {"domainNames": ["*.example.com"]}]}]}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s", "namespace": "n", "labels": {"a": "b"}}, "secrets": []}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true, "terminating": null}}], "ports": [{"name": "http", "protocol": "TCP", "port": 80}]}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": {"name": "b"}, "spec": {"cidr": "10.0.0.0/31", "affinity": "host:n", "affinityClaimTime": "2026-01-01T00:00:00Z",
            "allocations": [null, 0], "unallocated": [0], "attributes": [{"handle_id": "h", "secondary": {"a": "b"}}], "sequenceNumber": 7, "sequenceNumberForAllocation": {"1": 6}, "deleted": false, "new": [1]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity", "metadata": {"name": "n-10-0-0-0-31"}, "spec": {"cidr": "10.0.0.0/31", "node": "n", "state": "pending", "type": "virtual", "deleted": "false"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMHandle", "metadata": {"name": "h"}, "spec": {"handleID": "H", "block": {"10.0.0.0/31": 1}, "new": {"a": null}}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration", "metadata": {"name": "default"}, "spec": {"strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 4, "kubeVirtVMAddressPersistence": "Enabled", "ipCooldownSeconds": 60}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPReservation", "metadata": {"name": "r"}, "spec": {"reservedCIDRs": ["10.0.0.1", "fd00::/126"]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": {"name": "node.n"}, "spec": {"bindMode": "NodeIP", "communities": [{"name": "c", "value": "1:2"}], "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["c", "1:2:3"]}],
            "nodeMeshPassword": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}, "nodeMeshMaxRestartTime": "2m", "ignoredInterfaces": ["eth*"], "localWorkloadPeeringIPV4": "10.0.0.1", "localWorkloadPeeringIPV6": "fd00::1",
            "programClusterRoutes": "EnabledIPIPOnly", "ipv4NormalRoutePriority": 7, "ipv6NormalRoutePriority": 8, "serviceLoadBalancerAggregation": "Disabled"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "p"}, "spec": {"node": "n", "peerIP": "[fd00::1]:1790", "asNumber": "1.10", "localASNumber": 65000, "nextHopMode": "Self", "password": {"secretKeyRef": {"key": "k"}},
            "sourceAddress": "UseNodeIP", "maxRestartTime": "1m30s", "keepaliveTime": "3s", "numAllowedLocalASNumbers": 1, "ttlSecurity": 1, "reachableBy": "fd00::2", "filters": ["f"], "reversePeering": "Manual"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "q"}, "spec": {"nodeSelector": "all()", "peerSelector": "has(rr)", "keepOriginalNextHop": true}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPFilter", "metadata": {"name": "f"}, "spec": {
            "exportV4": [{"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "NotIn", "prefixLength": {"min": 16, "max": 24}, "source": "RemotePeers", "interface": "eth*", "peerType": "eBGP", "communities": {"values": ["1:2"]}, "asPathPrefix": [1, "2"], "priority": 3}],
            "importV4": [{"action": "Accept", "operations": [{"addCommunity": {"value": "1:2:3"}}, {"prependASPath": {"prefix": [65000]}}, {"setPriority": {"value": 1}}]}],
            "exportV6": [{"action": "Accept", "cidr": "fd00::/8", "matchOperator": "Equal"}], "importV6": [{"action": "Reject"}]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "ClusterInformation", "metadata": {"name": "default"}, "spec": {"clusterGUID": "g", "clusterType": "k8s,bgp", "calicoVersion": "v3.33.0", "variant": "Calico", "datastoreReady": true}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "CalicoNodeStatus", "metadata": {"name": "c"}, "spec": {"node": "n", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 10}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "KubeControllersConfiguration", "metadata": {"name": "default"}, "spec": {"logSeverityScreen": "Info", "healthChecks": "Enabled", "etcdV3CompactionPeriod": "10m", "prometheusMetricsPort": 9094, "debugProfilePort": 0, "controllers": {
            "node": {"leakGracePeriod": "15m", "reconcilerPeriod": "5m", "syncLabels": "Enabled", "hostEndpoint": {"autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled", "templates": [{"generateName": "g", "nodeSelector": "all()", "interfaceCIDRs": ["10.0.0.0/8"], "interfacePattern": "eth.*", "labels": {"a": "b"}, "annotations": {"a": "b"}}]}},
            "loadBalancer": {"assignIPs": "AllServices"}, "namespace": {"reconcilerPeriod": "5m"}, "policy": {}, "serviceAccount": {}, "workloadEndpoint": {}, "migration": {"policyNameMigrator": "Enabled"}}}}),
    ]
}
