//! The report's fields that a document's digest goes into.

use std::fmt;

/// SNP's `HOST_DATA`, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostData([u8; 32]);

/// TDX's MRCONFIGID, 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MrConfigId([u8; 48]);

impl HostData {
    /// The digest's first 32 bytes, filled up with zeros.
    pub fn from_digest(digest: &[u8]) -> Self {
        Self(fit(digest))
    }

    /// The field's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl MrConfigId {
    /// The digest's first 48 bytes, filled up with zeros.
    pub fn from_digest(digest: &[u8]) -> Self {
        Self(fit(digest))
    }

    /// The field's bytes.
    pub const fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }
}

fn fit<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(digest) {
        *to = *from;
    }
    field
}

impl fmt::Display for HostData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for MrConfigId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for HostData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for MrConfigId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
