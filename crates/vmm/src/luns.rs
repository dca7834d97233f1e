//! Which layer image is which LUN of the VM's SCSI controller.
//!
//! Layers are shared: one that several containers of a pod use is one LUN, whatever files it is in, because the guest
//! opens it by its root hash. Numbers go round and round instead of
//! being reused at once, so that a guest that is slow to forget a removed disk never takes a new one for it.

use std::collections::BTreeMap;

use verity::RootHash;
use vmm_config::hotplug::Lun;

#[derive(Debug)]
struct Entry {
    root: RootHash,
    users: usize,
}

/// The LUNs in use.
#[derive(Debug, Default)]
pub struct Luns {
    entries: BTreeMap<Lun, Entry>,
    next: u16,
}

/// What [`Luns::attach`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// The layer is there already; it has one more user.
    Shared(Lun),
    /// A number for a layer that is still to be added to the VM.
    New(Lun),
}

/// All numbers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pod uses {0} different image layers already, the most that one SCSI target takes")]
pub struct Full(usize);

impl Luns {
    /// Counts one more user of a layer.
    ///
    /// # Errors
    /// [`Full`].
    pub fn attach(&mut self, root: RootHash) -> Result<Attached, Full> {
        if let Some((lun, entry)) = self.entries.iter_mut().find(|(_, entry)| entry.root == root) {
            entry.users += 1;
            return Ok(Attached::Shared(*lun));
        }
        let count = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        if count > Lun::MAX {
            return Err(Full(self.entries.len()));
        }
        let lun = (0..=Lun::MAX)
            .map(|offset| (self.next + offset) % (Lun::MAX + 1))
            .filter_map(Lun::new)
            .find(|lun| !self.entries.contains_key(lun))
            .ok_or(Full(self.entries.len()))?;
        self.next = (lun.get() + 1) % (Lun::MAX + 1);
        self.entries.insert(lun, Entry { root, users: 1 });
        Ok(Attached::New(lun))
    }

    /// Counts one user less; the layer where it was the last and the LUN is to be removed from the VM.
    pub fn detach(&mut self, lun: Lun) -> Option<RootHash> {
        let entry = self.entries.get_mut(&lun)?;
        entry.users -= 1;
        if entry.users > 0 {
            return None;
        }
        self.entries.remove(&lun).map(|entry| entry.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(number: u64) -> RootHash {
        format!("{number:064x}").parse().unwrap()
    }

    fn new(luns: &mut Luns, number: u64) -> Lun {
        match luns.attach(root(number)).unwrap() {
            Attached::New(lun) => lun,
            Attached::Shared(lun) => panic!("{lun} is shared"),
        }
    }

    #[test]
    fn a_layer_is_one_disk_until_its_last_user_goes() {
        let mut luns = Luns::default();
        let lun = new(&mut luns, 7);
        assert_eq!(luns.attach(root(7)), Ok(Attached::Shared(lun)));
        assert_eq!(luns.detach(lun), None);
        assert_eq!(luns.detach(lun), Some(root(7)));
        assert_eq!(luns.detach(lun), None);
    }

    #[test]
    fn a_number_is_not_reused_at_once() {
        let mut luns = Luns::default();
        let first = new(&mut luns, 1);
        luns.detach(first);
        assert_ne!(new(&mut luns, 2), first);
    }

    #[test]
    fn numbers_go_round_and_end_with_an_error() {
        let mut luns = Luns::default();
        let first = new(&mut luns, 0);
        for number in 1..=u64::from(Lun::MAX) {
            new(&mut luns, number);
        }
        assert_eq!(luns.attach(root(1 << 40)), Err(Full(usize::from(Lun::MAX) + 1)));
        luns.detach(first);
        assert_eq!(new(&mut luns, 1 << 40), first);
    }
}
