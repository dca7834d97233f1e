//! Which layer image is which LUN of the VM's SCSI controller.
//!
//! Layers are shared: a file that several containers of a pod use is one LUN. Numbers go round and round instead of
//! being reused at once, so that a guest that is slow to forget a removed disk never takes a new one for it.

use std::collections::BTreeMap;

use vmm_config::hotplug::Lun;

/// A file, whatever its name: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

#[derive(Debug)]
struct Entry {
    file: FileId,
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
    /// The file is there already; it has one more user.
    Shared(Lun),
    /// A number for a file that is still to be added to the VM.
    New(Lun),
}

/// All numbers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pod uses {0} different image layers already, the most that one SCSI target takes")]
pub struct Full(usize);

impl Luns {
    /// Counts one more user of `file`.
    ///
    /// # Errors
    /// [`Full`].
    pub fn attach(&mut self, file: FileId) -> Result<Attached, Full> {
        if let Some((lun, entry)) = self.entries.iter_mut().find(|(_, entry)| entry.file == file) {
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
        self.entries.insert(lun, Entry { file, users: 1 });
        Ok(Attached::New(lun))
    }

    /// Counts one user less; `true` where it was the last and the LUN is to be removed from the VM.
    pub fn detach(&mut self, lun: Lun) -> bool {
        let Some(entry) = self.entries.get_mut(&lun) else { return false };
        entry.users -= 1;
        let last = entry.users == 0;
        if last {
            self.entries.remove(&lun);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> FileId {
        FileId { device: 1, inode }
    }

    fn new(luns: &mut Luns, inode: u64) -> Lun {
        match luns.attach(file(inode)).unwrap() {
            Attached::New(lun) => lun,
            Attached::Shared(lun) => panic!("{lun} is shared"),
        }
    }

    #[test]
    fn a_file_is_one_disk_until_its_last_user_goes() {
        let mut luns = Luns::default();
        let lun = new(&mut luns, 7);
        assert_eq!(luns.attach(file(7)), Ok(Attached::Shared(lun)));
        assert!(!luns.detach(lun));
        assert!(luns.detach(lun));
        assert!(!luns.detach(lun));
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
        for inode in 1..=u64::from(Lun::MAX) {
            new(&mut luns, inode);
        }
        assert_eq!(luns.attach(file(1 << 40)), Err(Full(usize::from(Lun::MAX) + 1)));
        luns.detach(first);
        assert_eq!(new(&mut luns, 1 << 40), first);
    }
}
