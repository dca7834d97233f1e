//! What executes a guest's instructions.

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's virtualisation.
    Kvm,
    /// QEMU's own emulation: slow, and needs nothing of the host.
    Tcg,
}

impl Accelerator {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Kvm, Self::Tcg];

    /// QEMU's name of it, and the one in the node's configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What a trial run of KVM found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmTrial {
    /// It runs guests.
    Works,
    /// It does not.
    Fails {
        /// Why, for the log.
        reason: String,
    },
}
