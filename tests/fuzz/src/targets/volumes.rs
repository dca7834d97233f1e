//! Model volumes: what an owner writes of them, and what a host puts at the beginning of a disk.

use model_volumes::luks::{LuksError, metadata, open};
use model_volumes::{HEAD, Volumes, uuid};

/// `volumes.toml`.
pub(super) fn document(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(volumes) = Volumes::parse(text) else { return };
    for (name, volume) in volumes.iter() {
        assert_eq!(volumes.with_root(volume.root).map(|(found, _)| found), Some(name));
        assert_eq!(volumes.get(name), Some(volume));
    }
}

/// A disk's first bytes.
pub(super) fn disk(input: &[u8]) {
    if let Some(uuid) = uuid(input) {
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
        assert!(input.len() < HEAD || input.starts_with(b"LUKS"));
    }
    // A header that is not whole opens nothing, whatever the key.
    let Ok(file) = tempfile::tempfile() else { return };
    if std::io::Write::write_all(&mut &file, input).is_ok() {
        let opened = open(&file, input.len() as u64, b"key");
        assert!(matches!(
            opened,
            Err(LuksError::Magic
                | LuksError::Io { .. }
                | LuksError::Damaged(_)
                | LuksError::Unusual { .. }
                | LuksError::Metadata(_))
        ));
    }
}

/// The metadata of a header whose checksums fit.
pub(super) fn slots(input: &[u8]) {
    if let Ok(slots) = metadata(input) {
        assert!(slots <= 32, "{slots} key slots");
    }
}
