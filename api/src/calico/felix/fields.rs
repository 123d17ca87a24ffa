//! The table of FelixConfiguration's fields: for each its type, its name, and what this version does with it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::values::{
    AllowAction, AwsSrcDstCheck, BpfAttachType, BpfConnectTimeLoadBalancing, BpfConntrackLogLevel, BpfConntrackMode,
    BpfConntrackTimeouts, BpfEnforceRpf, BpfExternalServiceMode, BpfJitHardening, BpfLogLevel, BpfMapScaling,
    BpfOverlayHostSourceIp, BpfRedirectToPeer, ChainInsertMode, DenyAction, Duration, EndpointToHostAction,
    ExistingConnections, FlowLogsPolicyEvaluationMode, HealthTimeoutOverride, InterfaceFilter, InterfacePrefixes,
    IptablesBackend, KeyValues, L2Reachability, LogLevel, LogPrefix, LogRate, NatOutgoingExclusions, Network,
    NftablesMode, NodeSelector, Pattern, PortRange, ProtoPort, RouteSource, RouteTableRange, ServiceLoopPrevention,
    SourceSpoofing, Switch, plain, text,
};
use super::{Field, Standing};

/// Makes the struct, the table and the merging of one configuration over another from one list, so that none of them misses a field.
/// `text` fields are text on the wire, and not set when that is empty.
macro_rules! fields {
    ($(#[doc = $note:literal] $standing:ident $read:literal $field:ident: $type:ty = $name:literal $(same $($same:literal),+)?;)+) => {
        /// `FelixConfigurationSpec`: every field of Calico's API. What is not set is left to the next configuration, or to the default.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct FelixConfigurationSpec {$(
            #[doc = $note]
            #[serde(rename = $name, default, skip_serializing_if = "Option::is_none", deserialize_with = $read)]
            pub $field: Option<$type>,
        )+}

        /// All fields, in the order of their names.
        pub const FIELDS: &[Field] = &[$(Field {
            name: $name,
            standing: Standing::$standing,
            note: $note.trim_ascii(),
            same: &[$($($same),+)?],
        }),+];

        impl FelixConfigurationSpec {
            /// This configuration, and where it says nothing, what `other` says.
            #[must_use]
            pub fn or(self, other: &Self) -> Self {
                Self {$($field: self.$field.or_else(|| other.$field.clone())),+}
            }
        }
    };
}

fields! {
    /// Lets pods send IPIP packets; they are dropped by default, so that no pod writes into a tunnel.
    Honoured "plain" allow_ipip_packets_from_workloads: bool = "allowIPIPPacketsFromWorkloads";
    /// Lets pods send UDP to `vxlanPort`; it is dropped by default, so that no pod writes into a tunnel.
    Honoured "plain" allow_vxlan_packets_from_workloads: bool = "allowVXLANPacketsFromWorkloads";
    /// The check of the EC2 instance is left as it is: switch it off in AWS for un-encapsulated traffic.
    NotYet "text" aws_src_dst_check: AwsSrcDstCheck = "awsSrcDstCheck" same "\"DoNothing\"";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_attach_type: BpfAttachType = "bpfAttachType";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_ctlb_log_filter: String = "bpfCTLBLogFilter";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_connect_time_load_balancing: BpfConnectTimeLoadBalancing = "bpfConnectTimeLoadBalancing" same "\"TCP\"", "\"Enabled\"", "\"Disabled\"";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_connect_time_load_balancing_enabled: bool = "bpfConnectTimeLoadBalancingEnabled" same "true", "false";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_conntrack_log_level: BpfConntrackLogLevel = "bpfConntrackLogLevel" same "\"Off\"";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_conntrack_mode: BpfConntrackMode = "bpfConntrackMode";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_conntrack_timeouts: BpfConntrackTimeouts = "bpfConntrackTimeouts";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_dsr_optout_cidrs: Vec<Network> = "bpfDSROptoutCIDRs";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_data_iface_pattern: Pattern = "bpfDataIfacePattern";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_disable_gro_for_ifaces: Pattern = "bpfDisableGROForIfaces";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_disable_unprivileged: bool = "bpfDisableUnprivileged";
    /// There are no eBPF programs: rules are nftables, and Services are kube-proxy's.
    NotYet "plain" bpf_enabled: bool = "bpfEnabled" same "false";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_enforce_rpf: BpfEnforceRpf = "bpfEnforceRPF";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_exclude_cidrs_from_nat: Vec<Network> = "bpfExcludeCIDRsFromNAT";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_export_buffer_size_mb: u32 = "bpfExportBufferSizeMB";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_ext_to_service_connmark: u32 = "bpfExtToServiceConnmark" same "0";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_external_service_mode: BpfExternalServiceMode = "bpfExternalServiceMode";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_force_track_packets_from_ifaces: Vec<InterfaceFilter> = "bpfForceTrackPacketsFromIfaces";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_host_conntrack_bypass: bool = "bpfHostConntrackBypass";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_host_networked_nat_without_ctlb: Switch = "bpfHostNetworkedNATWithoutCTLB" same "\"Enabled\"", "\"Disabled\"";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_ip_frag_timeout: Duration = "bpfIPFragTimeout";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_ip_fragment_reassembly_enabled: bool = "bpfIPFragmentReassemblyEnabled";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_jit_hardening: BpfJitHardening = "bpfJITHardening";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_kube_proxy_endpoint_slices_enabled: bool = "bpfKubeProxyEndpointSlicesEnabled";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_kube_proxy_healthz_port: u16 = "bpfKubeProxyHealthzPort";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_kube_proxy_iptables_cleanup_enabled: bool = "bpfKubeProxyIptablesCleanupEnabled" same "false";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_kube_proxy_min_sync_period: Duration = "bpfKubeProxyMinSyncPeriod";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_l3_iface_pattern: Pattern = "bpfL3IfacePattern";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_log_filters: BTreeMap<String, String> = "bpfLogFilters";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_log_level: BpfLogLevel = "bpfLogLevel" same "\"Off\"";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_maglev_max_endpoints_per_service: u32 = "bpfMaglevMaxEndpointsPerService";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_maglev_max_services: u32 = "bpfMaglevMaxServices";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_conntrack: u32 = "bpfMapSizeConntrack";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_conntrack_cleanup_queue: u32 = "bpfMapSizeConntrackCleanupQueue";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_map_size_conntrack_scaling: BpfMapScaling = "bpfMapSizeConntrackScaling";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_ipsets: u32 = "bpfMapSizeIPSets";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_if_state: u32 = "bpfMapSizeIfState";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_nat_affinity: u32 = "bpfMapSizeNATAffinity";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_nat_backend: u32 = "bpfMapSizeNATBackend";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_nat_frontend: u32 = "bpfMapSizeNATFrontend";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_per_cpu_conntrack: u32 = "bpfMapSizePerCpuConntrack";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_map_size_route: u32 = "bpfMapSizeRoute";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_overlay_host_source_ip: BpfOverlayHostSourceIp = "bpfOverlayHostSourceIP";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_psnat_ports: PortRange = "bpfPSNATPorts";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" bpf_policy_debug_enabled: bool = "bpfPolicyDebugEnabled" same "false";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_profiling: Switch = "bpfProfiling" same "\"Disabled\"";
    /// Of eBPF programs, which are not used here.
    NoEffect "text" bpf_redirect_to_peer: BpfRedirectToPeer = "bpfRedirectToPeer";
    /// Of eBPF and flow logs: control groups are not used here.
    NoEffect "text" cgroup_v2_path: String = "cgroupV2Path";
    /// Our chains are in a table of their own, so there is no order among rules to choose.
    NoEffect "text" chain_insert_mode: ChainInsertMode = "chainInsertMode" same "\"Insert\"";
    /// There is one dataplane, inside the agent.
    NotYet "text" dataplane_driver: String = "dataplaneDriver";
    /// How long the core may be silent before the agent reports that it is not live; `healthTimeoutOverrides` wins.
    Honoured "text" dataplane_watchdog_timeout: Duration = "dataplaneWatchdogTimeout";
    /// No log message is ever dropped.
    NoEffect "plain" debug_disable_log_dropping: bool = "debugDisableLogDropping" same "true", "false";
    /// There is no debug port: `tortie node diags` and `--record` show the inside of an agent.
    NotYet "text" debug_host: String = "debugHost";
    /// There are no memory profiles.
    NotYet "text" debug_memory_profile_path: String = "debugMemoryProfilePath";
    /// There is no debug port: `tortie node diags` and `--record` show the inside of an agent.
    NotYet "plain" debug_port: u16 = "debugPort" same "0";
    /// Faults are injected in tests only.
    NotYet "text" debug_simulate_calc_graph_hang_after: Duration = "debugSimulateCalcGraphHangAfter" same "\"0s\"";
    /// Faults are injected in tests only.
    NotYet "text" debug_simulate_dataplane_apply_delay: Duration = "debugSimulateDataplaneApplyDelay" same "\"0s\"";
    /// Faults are injected in tests only.
    NotYet "text" debug_simulate_dataplane_hang_after: Duration = "debugSimulateDataplaneHangAfter" same "\"0s\"";
    /// What becomes of a pod's packet to its own node, once the pod's egress policies allow it; `Accept` by default, as Calico's manifests set it.
    Honoured "text" default_endpoint_to_host_action: EndpointToHostAction = "defaultEndpointToHostAction";
    /// The protocol number of all routes that the agent writes, and by which it knows them; 80 by default. When it changes, they are written anew. Numbers that others use (0 to 4, 9, 16) are refused.
    Honoured "plain" device_route_protocol: u8 = "deviceRouteProtocol";
    /// The IPv4 address that the node itself sends to its pods from, where nothing else says from which; it must be the node's own, for the kernel refuses others.
    Honoured "text" device_route_source_address: Ipv4Addr = "deviceRouteSourceAddress";
    /// The IPv6 address that the node itself sends to its pods from, where nothing else says from which; it must be the node's own, for the kernel refuses others.
    Honoured "text" device_route_source_address_ipv6: Ipv6Addr = "deviceRouteSourceAddressIPv6";
    /// Leaves packets of pods that conntrack calls invalid to policies, as if each were the first of its flow; they are dropped by default.
    Honoured "plain" disable_conntrack_invalid_check: bool = "disableConntrackInvalidCheck";
    /// Of OpenStack: the state of endpoints is in `tortie node status` and `tortie get pods`.
    NoEffect "text" endpoint_reporting_delay: Duration = "endpointReportingDelay";
    /// Of OpenStack: the state of endpoints is in `tortie node status` and `tortie get pods`.
    NoEffect "plain" endpoint_reporting_enabled: bool = "endpointReportingEnabled" same "false";
    /// A CNI ADD returns when the pod's rules and route are in the kernel, so no file has to tell the plugin.
    NoEffect "text" endpoint_status_path_prefix: String = "endpointStatusPathPrefix";
    /// There are no tunnels yet, so no others to take tunnel packets from.
    NotYet "plain" external_nodes_list: Vec<Network> = "externalNodesList" same "[]";
    /// The ports of the node that no policy of a HostEndpoint closes, nor the absence of one; `[]` for none. By default TCP 22, 179, 2379, 2380, 5473, 6443, 6666 and 6667, and UDP 68.
    Honoured "plain" failsafe_inbound_host_ports: Vec<ProtoPort> = "failsafeInboundHostPorts";
    /// The ports that the node itself reaches elsewhere whatever policies its HostEndpoints have; `[]` for none. By default TCP 179, 2379, 2380, 5473, 6443, 6666 and 6667, and UDP 53 and 67.
    Honoured "plain" failsafe_outbound_host_ports: Vec<ProtoPort> = "failsafeOutboundHostPorts";
    /// What the kernel can do is found out by doing it.
    NoEffect "text" feature_detect_override: KeyValues = "featureDetectOverride";
    /// There are no features behind gates.
    NoEffect "text" feature_gates: KeyValues = "featureGates";
    /// Pods have no floating addresses.
    NotYet "text" floating_ips: Switch = "floatingIPs" same "\"Disabled\"";
    /// There are no flow logs yet.
    NotYet "plain" flow_logs_collector_debug_trace: bool = "flowLogsCollectorDebugTrace" same "false";
    /// There are no flow logs yet.
    NotYet "text" flow_logs_flush_interval: Duration = "flowLogsFlushInterval";
    /// There are no flow logs yet.
    NotYet "text" flow_logs_goldmane_server: String = "flowLogsGoldmaneServer";
    /// There are no flow logs yet.
    NotYet "text" flow_logs_local_reporter: Switch = "flowLogsLocalReporter" same "\"Disabled\"";
    /// There are no flow logs yet.
    NotYet "text" flow_logs_policy_evaluation_mode: FlowLogsPolicyEvaluationMode = "flowLogsPolicyEvaluationMode" same "\"None\"";
    /// XDP is not used here.
    NoEffect "plain" generic_xdp_enabled: bool = "genericXDPEnabled" same "false";
    /// The agent has no Go runtime.
    NoEffect "plain" go_gc_threshold: i64 = "goGCThreshold" same "-1";
    /// The agent has no Go runtime.
    NoEffect "plain" go_max_procs: i64 = "goMaxProcs" same "-1";
    /// The agent has no Go runtime.
    NoEffect "plain" go_memory_limit_mb: i64 = "goMemoryLimitMB" same "-1";
    /// Whether `/liveness` and `/readiness` are served; they are by default, as Calico's manifests set it.
    Honoured "plain" health_enabled: bool = "healthEnabled";
    /// The address that health is served on, before `--health-address`.
    Honoured "text" health_host: String = "healthHost";
    /// The port that health is served on, before `--health-address`.
    Honoured "plain" health_port: u16 = "healthPort";
    /// How long one part of the agent may be silent before it is not live; names are the parts that `/liveness` prints.
    Honoured "plain" health_timeout_overrides: Vec<HealthTimeoutOverride> = "healthTimeoutOverrides";
    /// Interfaces that are no HostEndpoint's by their name or addresses: a list separated by commas, of names and of regular expressions between slashes; `kube-ipvs0` by default. One for all interfaces is for these too.
    Honoured "text" interface_exclude: String = "interfaceExclude";
    /// What the names of pods' interfaces begin with: new ones are named by the first of at most 4 characters, `cali` by default, and those that are there keep their names.
    Honoured "text" interface_prefix: InterfacePrefixes = "interfacePrefix";
    /// How often interfaces and their kernel settings are compared with what they should be, besides the kernel's own events; 0 switches that off.
    Honoured "text" interface_refresh_interval: Duration = "interfaceRefreshInterval";
    /// Whether the node's forwarding is switched on and kept on; it is never switched off.
    Honoured "text" ip_forwarding: Switch = "ipForwarding";
    /// IPIP is used where an IPPool says so.
    NotYet "plain" ipip_enabled: bool = "ipipEnabled";
    /// The MTU of IPIP tunnels; by default, and with 0, what the network between nodes leaves.
    Honoured "plain" ipip_mtu: u32 = "ipipMTU";
    /// Sets are nftables' and are read back with the rules, see `nftablesRefreshInterval`.
    NoEffect "text" ipsets_refresh_interval: Duration = "ipsetsRefreshInterval";
    /// Our rules are nftables.
    NoEffect "text" iptables_backend: IptablesBackend = "iptablesBackend" same "\"Auto\"", "\"NFT\"";
    /// Of iptables: our rules are nftables, see the field of the same name with `nftables`.
    NoEffect "text" iptables_filter_allow_action: AllowAction = "iptablesFilterAllowAction" same "\"Accept\"";
    /// Of iptables: our rules are nftables, see the field of the same name with `nftables`.
    NoEffect "text" iptables_filter_deny_action: DenyAction = "iptablesFilterDenyAction" same "\"Drop\"";
    /// Of iptables: nftables needs no lock.
    NoEffect "text" iptables_lock_file_path: String = "iptablesLockFilePath";
    /// Of iptables: nftables needs no lock.
    NoEffect "text" iptables_lock_probe_interval: Duration = "iptablesLockProbeInterval";
    /// Of iptables: nftables needs no lock.
    NoEffect "text" iptables_lock_timeout: Duration = "iptablesLockTimeout";
    /// Of iptables: our rules are nftables, see the field of the same name with `nftables`.
    NoEffect "text" iptables_mangle_allow_action: AllowAction = "iptablesMangleAllowAction" same "\"Accept\"";
    /// Of iptables: our rules are nftables, see the field of the same name with `nftables`.
    NoEffect "plain" iptables_mark_mask: u32 = "iptablesMarkMask";
    /// The interface that packets must leave by to be masqueraded (`natOutgoing`); `+` at its end stands for whatever follows.
    Honoured "text" iptables_nat_outgoing_interface_filter: InterfaceFilter = "iptablesNATOutgoingInterfaceFilter";
    /// Of iptables: writes to nftables are atomic, and a stranger's are seen by events.
    NoEffect "text" iptables_post_write_check_interval: Duration = "iptablesPostWriteCheckInterval";
    /// Of iptables: our rules are nftables, see the field of the same name with `nftables`.
    NoEffect "text" iptables_refresh_interval: Duration = "iptablesRefreshInterval";
    /// There is no live migration of virtual machines.
    NotYet "plain" ipv4_elevated_route_priority: u32 = "ipv4ElevatedRoutePriority";
    /// The metric of the IPv4 routes that the agent writes; 1024 by default. 0 is refused: others' routes stand there.
    Honoured "plain" ipv4_normal_route_priority: u32 = "ipv4NormalRoutePriority";
    /// There is no live migration of virtual machines.
    NotYet "plain" ipv6_elevated_route_priority: u32 = "ipv6ElevatedRoutePriority";
    /// The metric of the IPv6 routes that the agent writes; 1024 by default. 0 is refused: others' routes stand there.
    Honoured "plain" ipv6_normal_route_priority: u32 = "ipv6NormalRoutePriority";
    /// Whether the node forwards IPv6 for pods; rules are enforced for IPv6 in any case.
    Honoured "plain" ipv6_support: bool = "ipv6Support";
    /// There is no support of Istio's ambient mode.
    NotYet "text" istio_ambient_mode: Switch = "istioAmbientMode" same "\"Disabled\"";
    /// There is no support of Istio's ambient mode.
    NotYet "plain" istio_dscp_mark: u8 = "istioDSCPMark" same "23";
    /// Traffic of node ports is told from a pod's by its interface, whatever its port.
    NoEffect "plain" kube_node_port_ranges: Vec<PortRange> = "kubeNodePortRanges";
    /// There is no live migration of virtual machines.
    NotYet "text" live_migration_route_convergence_time: Duration = "liveMigrationRouteConvergenceTime";
    /// The node answers ARP for no pods: they are reached by routes.
    NotYet "text" local_subnet_l2_reachability: L2Reachability = "localSubnetL2Reachability" same "\"Disabled\"";
    /// The node answers ARP for no pods: they are reached by routes.
    NotYet "text" local_subnet_l2_reachability_refresh_interval: Duration = "localSubnetL2ReachabilityRefreshInterval";
    /// How many packets each rule that logs puts into the kernel's log, such as `10/second` or `100/hour`; all by default. It counts them all.
    Honoured "text" log_action_rate_limit: LogRate = "logActionRateLimit";
    /// How many packets more a rule logs at once where `logActionRateLimit` is set; 5 by default, and at least 1.
    Honoured "plain" log_action_rate_limit_burst: u32 = "logActionRateLimitBurst";
    /// Which parts log at debug is said by `--log-level`.
    NoEffect "text" log_debug_filename_regex: Pattern = "logDebugFilenameRegex";
    /// The log goes to standard error, for whoever runs the agent to keep.
    NoEffect "text" log_file_path: String = "logFilePath" same "\"none\"", "\"None\"";
    /// What the kernel's log says ahead of a packet that a rule with the action Log meets, before `: `; `%t` is the tier, `%k` the policy's kind in short, `%n` its name and `%p` its name with its namespace. By default `calico-packet`.
    Honoured "text" log_prefix: LogPrefix = "logPrefix";
    /// The log goes to standard error, see `logSeverityScreen`.
    NoEffect "text" log_severity_file: LogLevel = "logSeverityFile";
    /// What the agent logs; where it is not set, `--log-level` says it.
    Honoured "text" log_severity_screen: LogLevel = "logSeverityScreen";
    /// The log goes to standard error, see `logSeverityScreen`.
    NoEffect "text" log_severity_sys: LogLevel = "logSeveritySys";
    /// Sets of nftables have no limit.
    NoEffect "plain" max_ipset_size: u32 = "maxIpsetSize";
    /// Of OpenStack.
    NoEffect "text" metadata_addr: String = "metadataAddr" same "\"none\"", "\"None\"";
    /// Of OpenStack.
    NoEffect "plain" metadata_port: u16 = "metadataPort";
    /// A regular expression of the interfaces whose smallest MTU is that of pods.
    Honoured "text" mtu_iface_pattern: Pattern = "mtuIfacePattern";
    /// The address that traffic of `natOutgoing` pools leaves with, instead of the outgoing interface's.
    Honoured "text" nat_outgoing_address: Ipv4Addr = "natOutgoingAddress";
    /// Which destinations pods reach with their own address although their pool has `natOutgoing`.
    Honoured "text" nat_outgoing_exclusions: NatOutgoingExclusions = "natOutgoingExclusions";
    /// The ports that traffic of `natOutgoing` pools leaves with.
    Honoured "plain" nat_port_range: PortRange = "natPortRange";
    /// A request to the kernel may take 10 seconds.
    NotYet "text" netlink_timeout: Duration = "netlinkTimeout" same "\"10s\"";
    /// What policies allow leaves our chain only: the node's own rules are always asked too, and their drop counts.
    NotYet "text" nftables_filter_allow_action: AllowAction = "nftablesFilterAllowAction" same "\"Accept\"", "\"Return\"";
    /// What becomes of a packet that a policy denies.
    Honoured "text" nftables_filter_deny_action: DenyAction = "nftablesFilterDenyAction";
    /// What policies before DNAT allow leaves our chain only: the node's own rules are always asked too, and their drop counts.
    NotYet "text" nftables_mangle_allow_action: AllowAction = "nftablesMangleAllowAction" same "\"Accept\"", "\"Return\"";
    /// The bits of the conntrack mark that stamp allowed flows, at least 8; others' bits are left alone.
    Honoured "plain" nftables_mark_mask: u32 = "nftablesMarkMask";
    /// Rules are always nftables.
    NotYet "text" nftables_mode: NftablesMode = "nftablesMode" same "\"Enabled\"", "\"Auto\"";
    /// How often our table is compared with what it should be, besides the kernel's own events; 0 switches that off.
    Honoured "text" nftables_refresh_interval: Duration = "nftablesRefreshInterval";
    /// The nodes that this configuration is for.
    Honoured "text" node_selector: NodeSelector = "nodeSelector";
    /// Of OpenStack.
    NoEffect "text" openstack_region: String = "openstackRegion";
    /// What becomes of connections when policy that allowed them is tightened: `Reevaluate`, the default, judges each again at its next packet; with `Keep` they go on, as with Calico, which does not have this field.
    Honoured "text" policy_existing_connections: ExistingConnections = "policyExistingConnections";
    /// Policies are not handed to other programs.
    NotYet "text" policy_sync_path_prefix: String = "policySyncPathPrefix";
    /// All routes are written by the agent, whoever they come from.
    NoEffect "text" program_cluster_routes: Switch = "programClusterRoutes" same "\"Enabled\"", "\"Disabled\"";
    /// The agent has no Go runtime.
    NoEffect "plain" prometheus_go_metrics_enabled: bool = "prometheusGoMetricsEnabled" same "true", "false";
    /// Metrics are served without TLS only: while this is set they are not served.
    NotYet "text" prometheus_metrics_ca_file: String = "prometheusMetricsCAFile";
    /// Metrics are served without TLS only: while this is set they are not served.
    NotYet "text" prometheus_metrics_cert_file: String = "prometheusMetricsCertFile";
    /// Metrics are served without TLS only: while this is set they are not served.
    NotYet "text" prometheus_metrics_client_auth: String = "prometheusMetricsClientAuth";
    /// Whether `/metrics` is served; it is by default, to the node itself.
    Honoured "plain" prometheus_metrics_enabled: bool = "prometheusMetricsEnabled";
    /// The address that metrics are served on; the loopback address by default, where Calico takes all: set `0.0.0.0` for a Prometheus elsewhere.
    Honoured "text" prometheus_metrics_host: String = "prometheusMetricsHost";
    /// Metrics are served without TLS only: while this is set they are not served.
    NotYet "text" prometheus_metrics_key_file: String = "prometheusMetricsKeyFile";
    /// The port that metrics are served on; 9091 by default.
    Honoured "plain" prometheus_metrics_port: u16 = "prometheusMetricsPort";
    /// Whether metrics of the process itself are among them.
    Honoured "plain" prometheus_process_metrics_enabled: bool = "prometheusProcessMetricsEnabled";
    /// There is no WireGuard, so there are no metrics of it.
    NoEffect "plain" prometheus_wire_guard_metrics_enabled: bool = "prometheusWireGuardMetricsEnabled" same "true", "false";
    /// Deletes others' routes out of pods' interfaces, but for the kernel's own; they stay by default, where Calico deletes them.
    Honoured "plain" remove_external_routes: bool = "removeExternalRoutes";
    /// Nothing is reported into the datastore: see `tortie node status` and the metrics.
    NoEffect "text" reporting_interval: Duration = "reportingInterval" same "\"0s\"";
    /// Nothing is reported into the datastore: see `tortie node status` and the metrics.
    NoEffect "text" reporting_ttl: Duration = "reportingTTL";
    /// The MTU is found by asking the kernel.
    NoEffect "plain" require_mtu_file: bool = "requireMTUFile" same "false";
    /// How often routes are compared with what they should be, besides the kernel's own events; 0 switches that off.
    Honoured "text" route_refresh_interval: Duration = "routeRefreshInterval";
    /// Routes come from the blocks of IPAM.
    NotYet "text" route_source: RouteSource = "routeSource" same "\"CalicoIPAM\"";
    /// Leaves all routes alone: those of pods and of other nodes are somebody else's to write.
    Honoured "plain" route_sync_disabled: bool = "routeSyncDisabled";
    /// All routes are in the main table.
    NoEffect "plain" route_table_range: RouteTableRange = "routeTableRange";
    /// All routes are in the main table.
    NoEffect "plain" route_table_ranges: Vec<RouteTableRange> = "routeTableRanges";
    /// What becomes of packets to the service addresses of BGPConfiguration that nobody translates.
    Honoured "text" service_loop_prevention: ServiceLoopPrevention = "serviceLoopPrevention";
    /// Of eBPF programs, which are not used here.
    NoEffect "plain" sidecar_acceleration_enabled: bool = "sidecarAccelerationEnabled" same "false";
    /// Nothing is ever reported to anybody.
    NoEffect "plain" usage_reporting_enabled: bool = "usageReportingEnabled" same "false";
    /// Nothing is ever reported to anybody.
    NoEffect "text" usage_reporting_initial_delay: Duration = "usageReportingInitialDelay";
    /// Nothing is ever reported to anybody.
    NoEffect "text" usage_reporting_interval: Duration = "usageReportingInterval";
    /// There is one dataplane, inside the agent.
    NotYet "plain" use_internal_dataplane_driver: bool = "useInternalDataplaneDriver" same "true";
    /// VXLAN is used where an IPPool says so.
    NotYet "plain" vxlan_enabled: bool = "vxlanEnabled";
    /// The MTU of the IPv4 VXLAN; by default, and with 0, what the network between nodes leaves.
    Honoured "plain" vxlan_mtu: u32 = "vxlanMTU";
    /// The MTU of the IPv6 VXLAN; by default, and with 0, what the network between nodes leaves.
    Honoured "plain" vxlan_mtu_v6: u32 = "vxlanMTUV6";
    /// The UDP port that nodes speak VXLAN on, and pods must not; 4789 by default.
    Honoured "plain" vxlan_port: u16 = "vxlanPort";
    /// The identifier of the VXLANs, of 24 bits; 4096 by default.
    Honoured "plain" vxlan_vni: u32 = "vxlanVNI";
    /// The agent runs on Linux.
    NoEffect "text" windows_manage_firewall_rules: Switch = "windowsManageFirewallRules" same "\"Disabled\"";
    /// Traffic between nodes is not encrypted.
    NotYet "plain" wireguard_enabled: bool = "wireguardEnabled" same "false";
    /// Traffic between nodes is not encrypted.
    NotYet "plain" wireguard_enabled_v6: bool = "wireguardEnabledV6" same "false";
    /// Traffic between nodes is not encrypted.
    NotYet "plain" wireguard_host_encryption_enabled: bool = "wireguardHostEncryptionEnabled" same "false";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "text" wireguard_interface_name: String = "wireguardInterfaceName";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "text" wireguard_interface_name_v6: String = "wireguardInterfaceNameV6";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "text" wireguard_keep_alive: Duration = "wireguardKeepAlive";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "plain" wireguard_listening_port: u16 = "wireguardListeningPort";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "plain" wireguard_listening_port_v6: u16 = "wireguardListeningPortV6";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "plain" wireguard_mtu: u32 = "wireguardMTU" same "0";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "plain" wireguard_mtu_v6: u32 = "wireguardMTUV6" same "0";
    /// Traffic between nodes is not encrypted: there is no WireGuard yet.
    NotYet "plain" wireguard_routing_rule_priority: u32 = "wireguardRoutingRulePriority";
    /// Traffic between nodes is not encrypted.
    NotYet "plain" wireguard_threading_enabled: bool = "wireguardThreadingEnabled" same "false";
    /// Whether pods may send with the source addresses that their annotation `cni.projectcalico.org/allowedSourcePrefixes` asks for.
    Honoured "text" workload_source_spoofing: SourceSpoofing = "workloadSourceSpoofing";
    /// XDP is not used here.
    NoEffect "plain" xdp_enabled: bool = "xdpEnabled" same "true", "false";
    /// XDP is not used here.
    NoEffect "text" xdp_refresh_interval: Duration = "xdpRefreshInterval";
}
