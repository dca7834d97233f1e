//! The pod annotations that are understood: a closed list.

/// An annotation that may change the VM where the node's configuration allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnnotationKey {
    /// vCPUs of a pod without a CPU limit.
    DefaultVcpus,
    /// Memory in MiB of the VM of a pod without a memory limit.
    DefaultMemory,
}

impl AnnotationKey {
    /// All that are understood.
    pub const ALL: [Self; 2] = [Self::DefaultVcpus, Self::DefaultMemory];

    /// The annotation's full name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DefaultVcpus => "io.katacontainers.config.hypervisor.default_vcpus",
            Self::DefaultMemory => "io.katacontainers.config.hypervisor.default_memory",
        }
    }

    /// The annotation of that name, if it is understood.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_key() {
        for key in AnnotationKey::ALL {
            assert_eq!(AnnotationKey::from_name(key.name()), Some(key));
        }
        assert_eq!(AnnotationKey::from_name("io.katacontainers.config.hypervisor.kernel"), None);
    }
}
