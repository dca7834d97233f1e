//! The same of what a manifest has: the messages of Kubernetes' core API of which a pod is made. The scheduler's and kubelet's
//! part of it never meets a runtime.

use super::Class::{Carried, Engine, Noted, Refused};
use super::{Message, in_pod as field};

/// Of the fields for which a pod is placed.
const SCHEDULER: &str = "the scheduler's";
const KUBELET: &str = "kubelet's";
/// Of volumes that are a directory or a disk of the node.
const OF_THE_NODE: &str = "a directory or a disk of the node, refused by its path";
const PROBES: &str =
    "by a command in the container; by HTTP, TCP or gRPC from the node, at the pod's address";
/// Of the parts of a volume of files.
const WRITES: &str = "kubelet writes the files, which are copied";
/// Of variables that have their value from elsewhere.
const VALUE: &str = "kubelet makes values of it";
const NODE_SIDE: &str = "kubelet asks from the node, at the pod's address";
const COPIED: &str = "copied into the guest, updates follow";

/// The list. What an ephemeral container has beside a container's fields is in a message of its own.
pub const POD: &[Message] = &[
    Message {
        name: "PodSpec",
        fields: &[
            field("activeDeadlineSeconds", Engine, KUBELET),
            field("affinity", Engine, SCHEDULER),
            field("automountServiceAccountToken", Carried, "the token comes by a projected volume"),
            field("containers", Carried, "below"),
            field("dnsConfig", Carried, "`/etc/resolv.conf`"),
            field("dnsPolicy", Carried, "`/etc/resolv.conf`"),
            field("enableServiceLinks", Carried, "environment"),
            field("ephemeralContainers", Carried, "below"),
            field("evictionResponders", Engine, "the control plane's"),
            field("hostAliases", Carried, "`/etc/hosts`"),
            field("hostIPC", Refused, "the node's namespaces are not the VM's"),
            field("hostNetwork", Refused, "the same"),
            field("hostPID", Refused, "the same"),
            field("hostUsers", Refused, super::USERS),
            field("hostname", Carried, "the guest's host name"),
            field("hostnameOverride", Carried, "the same"),
            field("imagePullSecrets", Engine, "the engine pulls images"),
            field("initContainers", Carried, "below; in their order, and those that stay beside the others"),
            field("nodeName", Engine, SCHEDULER),
            field("nodeSelector", Engine, SCHEDULER),
            field("os", Engine, SCHEDULER),
            field("overhead", Engine, "part of the cgroup's limit, which kubelet sets"),
            field("preemptionPolicy", Engine, SCHEDULER),
            field("priority", Engine, SCHEDULER),
            field("priorityClassName", Engine, SCHEDULER),
            field("readinessGates", Engine, "the control plane's"),
            field("resourceClaims", Carried, "as the CDI names that a driver gives: NVIDIA's (gpu.md)"),
            field("resources", Carried, "the VM's size"),
            field("restartPolicy", Engine, KUBELET),
            field("runtimeClassName", Engine, "names the class of VM"),
            field("schedulerName", Engine, SCHEDULER),
            field("schedulingGates", Engine, SCHEDULER),
            field("schedulingGroup", Engine, SCHEDULER),
            field("securityContext", Carried, "below"),
            field("serviceAccount", Carried, "its token comes by a projected volume"),
            field("serviceAccountName", Carried, "the same"),
            field("setHostnameAsFQDN", Carried, "the guest's host name"),
            field("shareProcessNamespace", Carried, "one namespace of the guest for all containers"),
            field("subdomain", Carried, "`/etc/hosts`"),
            field("terminationGracePeriodSeconds", Engine, "kubelet sends the signals at their times"),
            field("tolerations", Engine, SCHEDULER),
            field("topologySpreadConstraints", Engine, SCHEDULER),
            field("volumes", Carried, "below"),
        ],
    },
    Message {
        name: "Container",
        fields: &[
            field("args", Carried, ""),
            field("command", Carried, ""),
            field("env", Carried, ""),
            field("envFrom", Carried, ""),
            field("image", Carried, "its layers as disks with dm-verity trees (images.md)"),
            field("imagePullPolicy", Engine, KUBELET),
            field("lifecycle", Carried, PROBES),
            field("livenessProbe", Carried, PROBES),
            field("name", Carried, ""),
            field("ports", Engine, "opens and closes none; `hostPort` is CNI's"),
            field("readinessProbe", Carried, PROBES),
            field("resizePolicy", Engine, "kubelet's; new limits reach the container, the VM's size stays"),
            field("resources", Carried, "limits in the guest, and the VM's size"),
            field("restartPolicy", Engine, KUBELET),
            field("restartPolicyRules", Engine, KUBELET),
            field("securityContext", Carried, "below"),
            field("startupProbe", Carried, PROBES),
            field("stdin", Carried, ""),
            field("stdinOnce", Carried, ""),
            field("terminationMessagePath", Carried, "its first 4096 bytes, when the container ends"),
            field("terminationMessagePolicy", Engine, KUBELET),
            field("tty", Carried, ""),
            field(
                "volumeDevices",
                Refused,
                "model volumes are carried (attestation.md); another device is refused by its path",
            ),
            field("volumeMounts", Carried, "below"),
            field("workingDir", Carried, "made where the image has none; an exec's must be there"),
        ],
    },
    Message {
        name: "EphemeralContainer",
        fields: &[field("targetContainerName", super::TARGET, super::TARGET_HOW)],
    },
    Message {
        name: "PodSecurityContext",
        fields: &[
            field("appArmorProfile", Noted, "profiles are the host's"),
            field(
                "fsGroup",
                Carried,
                "a group of the processes; kubelet gives it the volumes that it writes",
            ),
            field("fsGroupChangePolicy", Engine, KUBELET),
            field("runAsGroup", Carried, ""),
            field("runAsNonRoot", Engine, "kubelet starts no container that is root then"),
            field("runAsUser", Carried, ""),
            field("seLinuxChangePolicy", Engine, KUBELET),
            field("seLinuxOptions", Noted, "labels are the host's"),
            field(
                "seccompProfile",
                Carried,
                "where the guest's agent is built with it, else said in the log",
            ),
            field("supplementalGroups", Carried, ""),
            field("supplementalGroupsPolicy", Engine, "the engine makes groups of it"),
            field("sysctls", Carried, "set in the guest"),
            field("windowsOptions", Engine, "of Windows nodes"),
        ],
    },
    Message {
        name: "SecurityContext",
        fields: &[
            field("allowPrivilegeEscalation", Carried, ""),
            field("appArmorProfile", Noted, "profiles are the host's"),
            field("capabilities", Carried, ""),
            field("privileged", Carried, "all rights in the guest, none of the host's"),
            field("procMount", Carried, ""),
            field(
                "readOnlyRootFilesystem",
                Carried,
                "an image with a VOLUME that has something in it then needs an emptyDir there, or is refused",
            ),
            field("runAsGroup", Carried, ""),
            field("runAsNonRoot", Engine, "kubelet starts no container that is root then"),
            field("runAsUser", Carried, ""),
            field("seLinuxOptions", Noted, "labels are the host's"),
            field(
                "seccompProfile",
                Carried,
                "where the guest's agent is built with it, else said in the log",
            ),
            field("windowsOptions", Engine, "of Windows nodes"),
        ],
    },
    Message {
        name: "Volume",
        fields: &[
            field("awsElasticBlockStore", Refused, OF_THE_NODE),
            field("azureDisk", Refused, OF_THE_NODE),
            field("azureFile", Refused, OF_THE_NODE),
            field("cephfs", Refused, OF_THE_NODE),
            field("cinder", Refused, OF_THE_NODE),
            field("configMap", Carried, COPIED),
            field("csi", Refused, OF_THE_NODE),
            field("downwardAPI", Carried, COPIED),
            field(
                "emptyDir",
                Carried,
                "guest memory; on the pod's scratch disk where it asks for one (attestation.md)",
            ),
            field("ephemeral", Refused, OF_THE_NODE),
            field("fc", Refused, OF_THE_NODE),
            field("flexVolume", Refused, OF_THE_NODE),
            field("flocker", Refused, OF_THE_NODE),
            field("gcePersistentDisk", Refused, OF_THE_NODE),
            field("gitRepo", Refused, OF_THE_NODE),
            field("glusterfs", Refused, OF_THE_NODE),
            field("hostPath", Refused, OF_THE_NODE),
            field("image", Refused, OF_THE_NODE),
            field("iscsi", Refused, OF_THE_NODE),
            field("name", Engine, "mounts name it"),
            field("nfs", Refused, OF_THE_NODE),
            field("persistentVolumeClaim", Refused, OF_THE_NODE),
            field("photonPersistentDisk", Refused, OF_THE_NODE),
            field("portworxVolume", Refused, OF_THE_NODE),
            field("projected", Carried, COPIED),
            field("quobyte", Refused, OF_THE_NODE),
            field("rbd", Refused, OF_THE_NODE),
            field("scaleIO", Refused, OF_THE_NODE),
            field("secret", Carried, COPIED),
            field("storageos", Refused, OF_THE_NODE),
            field("vsphereVolume", Refused, OF_THE_NODE),
        ],
    },
    Message {
        name: "EmptyDirVolumeSource",
        fields: &[
            field("medium", Carried, "Memory; HugePages are refused"),
            field("mode", Noted, "the directory is everybody's, in guest memory with the sticky bit"),
            field(
                "sizeLimit",
                Carried,
                "with medium Memory; otherwise kubelet's, which sees nothing of the guest",
            ),
        ],
    },
    Message {
        name: "VolumeMount",
        fields: &[
            field(
                "bindMountOptions",
                Carried,
                "options of the mount, from engines that hand them over; one that the guest's agent does not know is refused",
            ),
            field("mountPath", Carried, "absolute, without `..`"),
            field("mountPropagation", Carried, "nothing is mounted on the host's side of it"),
            field("name", Engine, "of the volume"),
            field("readOnly", Carried, ""),
            field("recursiveReadOnly", Refused, super::RECURSIVE),
            field(
                "subPath",
                Carried,
                "of a volume that is copied, once; a directory or file of an emptyDir, which a policy of `coffer bind` does not know",
            ),
            field("subPathExpr", Carried, "the same"),
        ],
    },
    Message {
        name: "ResourceRequirements",
        fields: &[
            field("claims", Carried, "see `resourceClaims`"),
            field(
                "limits",
                Carried,
                "cpu, memory, NVIDIA's GPUs; huge pages are refused, other devices by their path",
            ),
            field("requests", Carried, "cpu: the weight of the container; otherwise the scheduler's"),
        ],
    },
    Message {
        name: "HostAlias",
        fields: &[field("ip", Carried, "`/etc/hosts`"), field("hostnames", Carried, "the same")],
    },
    Message {
        name: "PodDNSConfig",
        fields: &[
            field("nameservers", Carried, "`/etc/resolv.conf`"),
            field("searches", Carried, "the same"),
            field("options", Carried, "the same"),
        ],
    },
    Message {
        name: "PodDNSConfigOption",
        fields: &[field("name", Carried, "`/etc/resolv.conf`"), field("value", Carried, "the same")],
    },
    Message {
        name: "PodResourceClaim",
        fields: &[
            field("name", Engine, "containers name it"),
            field("resourceClaimName", Engine, "the scheduler's and the driver's"),
            field("resourceClaimTemplateName", Engine, "the control plane's"),
        ],
    },
    Message {
        name: "ResourceClaim",
        fields: &[field("name", Engine, "of the claim"), field("request", Engine, "the driver's")],
    },
    Message {
        name: "Sysctl",
        fields: &[field("name", Carried, "set in the guest"), field("value", Carried, "the same")],
    },
    Message {
        name: "SeccompProfile",
        fields: &[
            field("type", Carried, "the engine makes a filter of it"),
            field("localhostProfile", Carried, "the engine reads the node's file"),
        ],
    },
    Message { name: "Capabilities", fields: &[field("add", Carried, ""), field("drop", Carried, "")] },
    Message {
        name: "EnvVar",
        fields: &[
            field("name", Carried, ""),
            field("value", Carried, ""),
            field("valueFrom", Carried, "below"),
        ],
    },
    Message {
        name: "EnvVarSource",
        fields: &[
            field("fieldRef", Engine, VALUE),
            field("resourceFieldRef", Engine, VALUE),
            field("configMapKeyRef", Engine, VALUE),
            field("secretKeyRef", Engine, VALUE),
            field(
                "fileKeyRef",
                Refused,
                "kubelet reads the file of an emptyDir, which is empty on the node: the container does not start",
            ),
        ],
    },
    Message {
        name: "EnvFromSource",
        fields: &[
            field("prefix", Engine, VALUE),
            field("configMapRef", Engine, VALUE),
            field("secretRef", Engine, VALUE),
        ],
    },
    Message {
        name: "Probe",
        fields: &[
            field("exec", Carried, "in the container"),
            field("grpc", Engine, NODE_SIDE),
            field("httpGet", Engine, NODE_SIDE),
            field("tcpSocket", Engine, NODE_SIDE),
            field("initialDelaySeconds", Engine, KUBELET),
            field("timeoutSeconds", Engine, KUBELET),
            field("periodSeconds", Engine, KUBELET),
            field("successThreshold", Engine, KUBELET),
            field("failureThreshold", Engine, KUBELET),
            field("terminationGracePeriodSeconds", Engine, KUBELET),
        ],
    },
    Message {
        name: "Lifecycle",
        fields: &[
            field("postStart", Carried, "below"),
            field("preStop", Carried, "below"),
            field("stopSignal", Engine, "the engine sends it, and the shim hands it on"),
        ],
    },
    Message {
        name: "LifecycleHandler",
        fields: &[
            field("exec", Carried, "in the container"),
            field("httpGet", Engine, NODE_SIDE),
            field("sleep", Engine, KUBELET),
            field("tcpSocket", Engine, NODE_SIDE),
        ],
    },
    Message { name: "ExecAction", fields: &[field("command", Carried, "")] },
    Message {
        name: "ConfigMapVolumeSource",
        fields: &[
            field("name", Engine, WRITES),
            field("items", Engine, WRITES),
            field("defaultMode", Carried, "modes are copied"),
            field("defaultUser", Carried, "owners are copied"),
            field("optional", Engine, KUBELET),
        ],
    },
    Message {
        name: "SecretVolumeSource",
        fields: &[
            field("secretName", Engine, WRITES),
            field("items", Engine, WRITES),
            field("defaultMode", Carried, "modes are copied"),
            field("defaultUser", Carried, "owners are copied"),
            field("optional", Engine, KUBELET),
        ],
    },
    Message {
        name: "DownwardAPIVolumeSource",
        fields: &[
            field("items", Engine, WRITES),
            field("defaultMode", Carried, "modes are copied"),
            field("defaultUser", Carried, "owners are copied"),
        ],
    },
    Message {
        name: "ProjectedVolumeSource",
        fields: &[
            field("sources", Engine, WRITES),
            field("defaultMode", Carried, "modes are copied"),
            field("defaultUser", Carried, "owners are copied"),
        ],
    },
];
