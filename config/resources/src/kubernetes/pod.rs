//! `v1` Pod: labels (in the metadata), addresses, ports and readiness.

use super::Accepted;
use crate::decode::message;

message! {
    /// A Pod, as far as endpoints come from it.
    pub struct Pod {
        pub spec: PodSpec => "spec",
        /// Where the addresses are; a manifest that was never applied has none.
        pub status: PodStatus => "status",
    }

    /// The `spec` of a Pod.
    pub struct PodSpec {
        pub containers: Vec<Container> => "containers",
        pub init_containers: Vec<Container> => "initContainers",
        pub ephemeral_containers: Accepted => "ephemeralContainers",
        pub host_network: bool => "hostNetwork",
        pub hostname: String => "hostname",
        pub subdomain: String => "subdomain",
        pub node_name: String => "nodeName",
        pub service_account_name: String => "serviceAccountName",
        pub service_account: String => "serviceAccount",
        pub volumes: Accepted => "volumes",
        pub restart_policy: Accepted => "restartPolicy",
        pub termination_grace_period_seconds: Accepted => "terminationGracePeriodSeconds",
        pub active_deadline_seconds: Accepted => "activeDeadlineSeconds",
        pub dns_policy: Accepted => "dnsPolicy",
        pub dns_config: Accepted => "dnsConfig",
        pub node_selector: Accepted => "nodeSelector",
        pub automount_service_account_token: Accepted => "automountServiceAccountToken",
        pub host_pid: Accepted => "hostPID",
        pub host_ipc: Accepted => "hostIPC",
        pub host_users: Accepted => "hostUsers",
        pub hostname_override: Accepted => "hostnameOverride",
        pub share_process_namespace: Accepted => "shareProcessNamespace",
        pub security_context: Accepted => "securityContext",
        pub image_pull_secrets: Accepted => "imagePullSecrets",
        pub affinity: Accepted => "affinity",
        pub scheduler_name: Accepted => "schedulerName",
        pub tolerations: Accepted => "tolerations",
        pub host_aliases: Accepted => "hostAliases",
        pub priority_class_name: Accepted => "priorityClassName",
        pub priority: Accepted => "priority",
        pub readiness_gates: Accepted => "readinessGates",
        pub runtime_class_name: Accepted => "runtimeClassName",
        pub enable_service_links: Accepted => "enableServiceLinks",
        pub preemption_policy: Accepted => "preemptionPolicy",
        pub overhead: Accepted => "overhead",
        pub topology_spread_constraints: Accepted => "topologySpreadConstraints",
        pub set_hostname_as_fqdn: Accepted => "setHostnameAsFQDN",
        pub os: Accepted => "os",
        pub scheduling_gates: Accepted => "schedulingGates",
        pub resource_claims: Accepted => "resourceClaims",
        pub resources: Accepted => "resources",
    }

    /// A container of a Pod.
    pub struct Container {
        pub name: String => "name",
        pub ports: Vec<ContainerPort> => "ports",
        pub image: Accepted => "image",
        pub command: Accepted => "command",
        pub args: Accepted => "args",
        pub working_dir: Accepted => "workingDir",
        pub env_from: Accepted => "envFrom",
        pub env: Accepted => "env",
        pub resources: Accepted => "resources",
        pub resize_policy: Accepted => "resizePolicy",
        pub restart_policy: Accepted => "restartPolicy",
        pub restart_policy_rules: Accepted => "restartPolicyRules",
        pub volume_mounts: Accepted => "volumeMounts",
        pub volume_devices: Accepted => "volumeDevices",
        pub liveness_probe: Accepted => "livenessProbe",
        pub readiness_probe: Accepted => "readinessProbe",
        pub startup_probe: Accepted => "startupProbe",
        pub lifecycle: Accepted => "lifecycle",
        pub termination_message_path: Accepted => "terminationMessagePath",
        pub termination_message_policy: Accepted => "terminationMessagePolicy",
        pub image_pull_policy: Accepted => "imagePullPolicy",
        pub security_context: Accepted => "securityContext",
        pub stdin: Accepted => "stdin",
        pub stdin_once: Accepted => "stdinOnce",
        pub tty: Accepted => "tty",
    }

    /// A port of a container.
    pub struct ContainerPort {
        pub name: String => "name",
        pub container_port: i32 => "containerPort",
        pub protocol: String => "protocol",
        pub host_port: Accepted => "hostPort",
        pub host_ip: Accepted => "hostIP",
    }

    /// The `status` of a Pod.
    pub struct PodStatus {
        pub phase: String => "phase",
        pub pod_ip: String => "podIP",
        pub pod_ips: Vec<PodIp> => "podIPs",
        pub conditions: Vec<PodCondition> => "conditions",
        pub message: Accepted => "message",
        pub reason: Accepted => "reason",
        pub nominated_node_name: Accepted => "nominatedNodeName",
        pub host_ip: Accepted => "hostIP",
        pub host_ips: Accepted => "hostIPs",
        pub start_time: Accepted => "startTime",
        pub init_container_statuses: Accepted => "initContainerStatuses",
        pub container_statuses: Accepted => "containerStatuses",
        pub qos_class: Accepted => "qosClass",
        pub ephemeral_container_statuses: Accepted => "ephemeralContainerStatuses",
        pub resize: Accepted => "resize",
        pub resource_claim_statuses: Accepted => "resourceClaimStatuses",
        pub extended_resource_claim_status: Accepted => "extendedResourceClaimStatus",
        pub allocated_resources: Accepted => "allocatedResources",
        pub resources: Accepted => "resources",
        pub observed_generation: Accepted => "observedGeneration",
    }

    /// One of a Pod's addresses.
    pub struct PodIp {
        pub ip: String => "ip",
    }

    /// One of a Pod's conditions, as `Ready` with status `True`.
    pub struct PodCondition {
        pub r#type: String => "type",
        pub status: String => "status",
        pub observed_generation: Accepted => "observedGeneration",
        pub last_probe_time: Accepted => "lastProbeTime",
        pub last_transition_time: Accepted => "lastTransitionTime",
        pub reason: Accepted => "reason",
        pub message: Accepted => "message",
    }
}
