//! The keys: name, meaning, type and default, each in one place.

use jail::UserRange;
use shared_types::{Accelerator, GpuMode, ModePolicy};
use toml::de::DeValue;

use super::tee::{QuoteService, SnpCpu, SnpPolicy, Tee};
use super::values::{AutoOr, ScratchLimit, Value};
use super::{Entry, KeyDoc, Origins, Problem};
use crate::annotation::AnnotationKey;
use crate::path::{AbsolutePath, Program};
use crate::units::{MemorySize, Vcpus, VmMemory};

/// Defines [`NodeConfig`], its defaults, the table of keys and the setter from one list, so that a key
/// cannot exist without its meaning.
macro_rules! node_config {
    ($( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr; )+) => {
        /// The effective configuration of a node.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct NodeConfig {
            $( $(#[doc = $doc])+ pub $key: $type, )+
            /// Which of these values the file sets, and where.
            pub origins: Origins,
        }

        impl Default for NodeConfig {
            fn default() -> Self {
                Self { $( $key: $default, )+ origins: Origins::default() }
            }
        }

        impl NodeConfig {
            /// Every key with its meaning, in the order of documentation.
            pub const KEYS: &[KeyDoc] = &[
                $( KeyDoc { key: stringify!($key), doc: concat!($($doc, "\n"),+) }, )+
            ];

            pub(super) fn set(&mut self, key: &str, value: &DeValue<'_>) -> Result<&'static str, Problem> {
                match key {
                    $( stringify!($key) => {
                        self.$key = Value::from_toml(value).map_err(|reason| Problem::Value {
                            key: stringify!($key),
                            reason,
                        })?;
                        Ok(stringify!($key))
                    } )+
                    _ => Err(super::parse::unknown(key)),
                }
            }

            fn value_of(&self, key: &str) -> serde_json::Value {
                match key {
                    $( stringify!($key) => self.$key.to_json(), )+
                    _ => serde_json::Value::Null,
                }
            }
        }
    };
}

node_config! {
    /// Directory of the guest image: image.json, the kernel and the root file system.
    image: AbsolutePath = AbsolutePath::known("/opt/coffer/share/guest-image");

    /// The QEMU program: an absolute path, or a name that is looked up in PATH.
    qemu: Program = Program::known("qemu-system-x86_64");

    /// The first of 12,582,912 user ids from which each sandbox's QEMU, its vsock program and its image builder get one each.
    /// None of them may be an account's on this host.
    qemu_users: UserRange = UserRange::default();

    /// Firmware image for the VM, given to QEMU as -bios. Unset: QEMU's own SeaBIOS.
    firmware: Option<AbsolutePath> = None;

    /// The program that serves vsock where the host's kernel has no vhost-vsock: an absolute path,
    /// or a name that is looked up in PATH.
    vhost_device_vsock: Program = Program::known("vhost-device-vsock");

    /// Trusted execution environment of every VM: "none" (the host can read the VM), "tdx", "snp", or "auto", which
    /// takes the one that the host has. A VM that cannot have it is not started.
    tee: Tee = Tee::None;

    /// Where QEMU has a TDX guest's quotes made: "unix:/PATH", "vsock:CID:PORT", or "none" for guests that cannot
    /// prove what they are.
    quote_service: QuoteService = QuoteService::usual();

    /// CPU model of SEV-SNP guests, by QEMU's name. Its signature is part of the launch digest: another model, another
    /// digest.
    snp_cpu: SnpCpu = SnpCpu::usual();

    /// What SEV-SNP guests forbid their host, where its firmware knows it: "no-smt", "single-socket", "no-rapl",
    /// "ciphertext-hiding", "no-page-swap".
    snp_policy: SnpPolicy = SnpPolicy::default();

    /// Directory of signed ID blocks for SEV-SNP guests, each named by its launch digest: DIGEST.id-block and
    /// DIGEST.id-auth. Unset: none is used. Set: a guest without one is not started.
    snp_id_blocks: Option<AbsolutePath> = None;

    /// Whether a confidential VM may have a guest image of the profile dev or debug, whose console and agent show what
    /// is inside. For rigs.
    allow_debug_image: bool = false;

    /// What executes the guest: "kvm", "tcg" (emulation), or "auto", which takes KVM where it works.
    accel: AutoOr<Accelerator> = AutoOr::Auto;

    /// Who sets the confidential-computing mode of GPUs: "verify" (somebody else; a GPU in the wrong mode is refused) or
    /// "manage" (Coffer, as each pod needs it). Where NVIDIA's cc-manager runs, it is always "verify".
    cc_mode: ModePolicy = ModePolicy::Verify;

    /// The mode that a pod's GPUs must be in: "off", "on", "devtools", "ppcie", or "auto", which is off in a plain VM,
    /// ppcie for a whole Hopper board in a confidential one, and on for any other GPU there.
    gpu_mode: AutoOr<GpuMode> = AutoOr::Auto;

    /// vCPUs of a pod without a CPU limit. With one: the limit, rounded up.
    default_vcpus: Vcpus = Vcpus::ONE;

    /// Memory in MiB of the VM of a pod without a memory limit, the guest's own needs included.
    default_memory_mib: VmMemory = VmMemory::DEFAULT;

    /// Memory in MiB that a VM gets on top of its pod's limit, for the guest's kernel and agent.
    overhead_memory_mib: MemorySize = MemorySize::from_mib(192);

    /// Largest scratch disk in MiB that a pod may ask for, with the annotation
    /// "io.katacontainers.config.coffer.scratch" ("100Gi"). 0: pods get none.
    max_scratch_mib: ScratchLimit = ScratchLimit::default();

    /// Directory whose file system holds the pods' scratch disks: each is a file without a name, as large as what the pod has
    /// in it, and gone with the pod.
    scratch_directory: AbsolutePath = AbsolutePath::known("/var/lib/coffer/scratch");

    /// Pod annotations that may change the VM; any other one is ignored, but for those of initdata and the scratch disk, and
    /// said so in the log. Understood are
    /// "io.katacontainers.config.hypervisor.default_vcpus" and
    /// "io.katacontainers.config.hypervisor.default_memory" (MiB).
    allowed_annotations: Vec<AnnotationKey> = Vec::new();
}

impl NodeConfig {
    /// The effective configuration, key by key.
    pub fn entries(&self) -> Vec<Entry> {
        Self::KEYS
            .iter()
            .map(|&KeyDoc { key, doc }| Entry {
                key,
                value: self.value_of(key),
                origin: self.origins.of(key),
                doc,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    #[test]
    fn every_key_has_a_meaning() {
        for KeyDoc { key, doc } in NodeConfig::KEYS {
            assert!(doc.trim().len() > 20 && doc.trim_end().ends_with('.'), "{key}: {doc}");
        }
    }

    #[test]
    fn documentation_names_every_annotation_and_choice() {
        let doc = |key: &str| NodeConfig::KEYS.iter().find(|k| k.key == key).unwrap().doc;
        for annotation in AnnotationKey::ALL {
            assert!(doc("allowed_annotations").contains(annotation.name()), "{}", annotation.name());
        }
        for name in Accelerator::ALL.map(Accelerator::name) {
            assert!(doc("accel").contains(&format!("\"{name}\"")), "{name}");
        }
        for name in ModePolicy::ALL.map(ModePolicy::name) {
            assert!(doc("cc_mode").contains(name), "{name}");
        }
        for name in GpuMode::ALL.map(GpuMode::name) {
            assert!(doc("gpu_mode").contains(name), "{name}");
        }
        for name in Tee::NAMES {
            assert!(doc("tee").contains(&format!("\"{name}\"")), "{name}");
        }
    }

    #[test]
    fn entries_say_where_a_value_came_from() {
        let config = NodeConfig::parse("\ndefault_vcpus = 3\n", "/c.toml").unwrap();
        let entries = config.entries();
        let entry = |key: &str| entries.iter().find(|e| e.key == key).unwrap();
        assert_eq!(entry("default_vcpus").value, 3);
        assert_eq!(entry("default_vcpus").origin, Origin::File { path: "/c.toml".into(), line: 2 });
        assert_eq!(entry("qemu").value, "qemu-system-x86_64");
        assert_eq!(entry("qemu").origin, Origin::Default);
        assert!(entry("firmware").value.is_null());
        assert_eq!(entries.len(), NodeConfig::KEYS.len());
    }
}
