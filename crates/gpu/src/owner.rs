//! Who owns the GPUs' mode: NVIDIA's cc-manager where it runs, else whoever the configuration says.

use std::io;
use std::path::Path;

use shared_types::ModePolicy;

/// The file that NVIDIA's cc-manager leaves while it looks after a node's GPUs.
pub const CC_MANAGER_READY: &str = "/run/nvidia/validations/.cc-manager-ctr-ready";

/// What may be done to a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Read and refuse: two writers would race.
    VerifyOnly,
    /// Write.
    Manage,
}

/// Decides. Whoever cannot tell whether cc-manager is there must not write.
#[must_use]
pub fn ownership(policy: ModePolicy, cc_manager_ready: &Path) -> Ownership {
    let absent = std::fs::symlink_metadata(cc_manager_ready)
        .err()
        .is_some_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory));
    if policy == ModePolicy::Manage && absent { Ownership::Manage } else { Ownership::VerifyOnly }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cc_manager_wins() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        assert_eq!(ownership(ModePolicy::Manage, &ready), Ownership::Manage);
        assert_eq!(ownership(ModePolicy::Verify, &ready), Ownership::VerifyOnly);
        std::fs::write(&ready, "").unwrap();
        assert_eq!(ownership(ModePolicy::Manage, &ready), Ownership::VerifyOnly);
    }
}
