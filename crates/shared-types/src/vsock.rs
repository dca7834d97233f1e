//! Addresses of vsock.

/// A vsock context id of a guest: 3 and up, and not the wildcard (`linux/vm_sockets.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cid(u32);

impl Cid {
    /// The first that is free for guests: 0 to 2 have meanings of their own.
    const FIRST: u32 = 3;

    /// Checks that a guest can have the id.
    #[must_use]
    pub const fn new(cid: u32) -> Option<Self> {
        if cid >= Self::FIRST && cid < u32::MAX { Some(Self(cid)) } else { None }
    }

    /// Any number becomes an id for a guest.
    #[must_use]
    pub fn from_random(random: u64) -> Self {
        let span = u64::from(u32::MAX - Self::FIRST);
        let offset = u32::try_from(random % span).unwrap_or(0);
        Self(Self::FIRST + offset)
    }

    /// The id.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_context_ids_are_no_guests() {
        for reserved in [0, 1, 2, u32::MAX] {
            assert_eq!(Cid::new(reserved), None);
        }
        assert_eq!(Cid::new(3).map(Cid::get), Some(3));
    }

    #[test]
    fn ids_with_a_meaning_are_never_drawn() {
        for random in [0, 1, u64::from(u32::MAX) - 3, u64::from(u32::MAX) - 4, u64::MAX] {
            let cid = Cid::from_random(random);
            assert_eq!(Cid::new(cid.get()), Some(cid));
        }
    }
}
