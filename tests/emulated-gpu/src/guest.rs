//! What a device reaches besides its registers: the VM's memory, interrupts, its own memory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A piece of the VM's memory, as the VMM has announced it.
#[derive(Debug, Clone)]
struct Piece {
    size: u64,
    offset: u64,
    file: Arc<File>,
}

/// Memory that the device may reach, by its addresses on the bus. Accesses go through the file, so the VMM
/// must share it (`share=on`), and hugetlbfs does not do: it cannot be written to.
#[derive(Debug, Default)]
pub(crate) struct GuestMemory {
    pieces: BTreeMap<u64, Piece>,
    /// One descriptor for each file: with a vIOMMU thousands of pieces come from one.
    files: HashMap<(u64, u64), Arc<File>>,
}

impl GuestMemory {
    pub(crate) fn map(&mut self, address: u64, size: u64, offset: u64, file: File) -> io::Result<()> {
        let identity = file.metadata()?;
        let file = self.files.entry((identity.dev(), identity.ino())).or_insert_with(|| Arc::new(file));
        let piece = Piece { size, offset, file: Arc::clone(file) };
        self.pieces.insert(address, piece);
        Ok(())
    }

    /// All pieces that begin in the range.
    pub(crate) fn unmap(&mut self, address: u64, size: u64) {
        let end = address.saturating_add(size);
        while let Some((&start, _)) = self.pieces.range(address..end).next() {
            self.pieces.remove(&start);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    fn find(&self, address: u64, length: usize) -> io::Result<(&File, u64)> {
        let none = || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("no memory at {address:#x}"));
        let (start, piece) = self.pieces.range(..=address).next_back().ok_or_else(none)?;
        let into = address - start;
        let end = u64::try_from(length).ok().and_then(|length| into.checked_add(length));
        if end.is_none_or(|end| end > piece.size) {
            return Err(none());
        }
        Ok((&piece.file, piece.offset + into))
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) -> io::Result<()> {
        let (file, offset) = self.find(address, data.len())?;
        file.write_all_at(data, offset)
    }

    pub(crate) fn read(&self, address: u64, data: &mut [u8]) -> io::Result<()> {
        let (file, offset) = self.find(address, data.len())?;
        file.read_exact_at(data, offset)
    }

    /// The lowest page that begins with `data`.
    pub(crate) fn find_page(&self, data: &[u8]) -> Option<u64> {
        let mut found = vec![0; data.len()];
        let step = usize::try_from(PAGE).unwrap_or(1);
        let pages = |(start, piece): (&u64, &Piece)| (*start..start + piece.size).step_by(step);
        self.pieces.iter().flat_map(pages).find(|page| self.read(*page, &mut found).is_ok() && found == data)
    }
}

/// Eventfds of the VMM, by VFIO's interrupt index and number.
#[derive(Debug, Default)]
pub(crate) struct Interrupts(HashMap<(u32, u32), File>);

impl Interrupts {
    /// As VFIO's request says: `count` of them beginning at `start`, or all of an index gone.
    pub(crate) fn set(&mut self, index: u32, start: u32, count: u32, files: Vec<File>) {
        if count == 0 {
            self.0.retain(|(of, _), _| *of != index);
        }
        let numbers = start..start.saturating_add(count);
        let mut files = files.into_iter();
        for number in numbers {
            match files.next() {
                Some(file) => _ = self.0.insert((index, number), file),
                None => _ = self.0.remove(&(index, number)),
            }
        }
    }

    /// Tells whether anybody listens.
    pub(crate) fn raise(&self, index: u32, number: u32) -> io::Result<bool> {
        let Some(mut file) = self.0.get(&(index, number)) else { return Ok(false) };
        file.write_all(&1_u64.to_ne_bytes())?;
        Ok(true)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The device's own memory: as long as its BAR, taking only what was written.
#[derive(Debug)]
pub(crate) struct VideoMemory {
    file: File,
    size: u64,
}

impl VideoMemory {
    pub(crate) fn new(size: u64) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("emulated-gpu", rustix::fs::MemfdFlags::CLOEXEC)?;
        let memory = Self { file: file.into(), size };
        memory.scrub()?;
        Ok(memory)
    }

    /// Wipes it: a later read returns zeroes.
    pub(crate) fn scrub(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(self.size)
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reached_by_its_bus_address_and_not_beyond() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x4000).unwrap();
        let mut memory = GuestMemory::default();
        memory.map(0x1_0000_0000, 0x1000, 0x2000, file.try_clone().unwrap()).unwrap();
        memory.map(0x8000, 0x1000, 0, file.try_clone().unwrap()).unwrap();
        assert_eq!(memory.files.len(), 1);
        memory.write(0x1_0000_0010, b"coffer").unwrap();
        memory.write(0x1_0000_0000, b"page").unwrap();
        assert_eq!(memory.find_page(b"page"), Some(0x1_0000_0000));
        assert_eq!(memory.find_page(b"coffer"), None);
        let mut found = [0; 6];
        file.read_exact_at(&mut found, 0x2010).unwrap();
        assert_eq!(&found, b"coffer");
        memory.read(0x1_0000_0010, &mut found).unwrap();
        for address in [0, 0x8ffd, 0x1_0000_0ffd, u64::MAX] {
            assert!(memory.write(address, b"coffer").is_err(), "{address:#x}");
        }
        memory.unmap(0x1_0000_0000, 0x1000);
        assert!(memory.write(0x1_0000_0010, b"coffer").is_err());
        assert_eq!(memory.pieces(), 1);
    }

    #[test]
    fn video_memory_is_large_and_forgets() {
        let memory = VideoMemory::new(128 << 30).unwrap();
        let mut word = [0; 4];
        memory.write((128 << 30) - 4, &[1, 2, 3, 4]).unwrap();
        memory.read((128 << 30) - 4, &mut word).unwrap();
        assert_eq!(word, [1, 2, 3, 4]);
        memory.scrub().unwrap();
        memory.read((128 << 30) - 4, &mut word).unwrap();
        assert_eq!(word, [0; 4]);
        assert!(memory.write((128 << 30) - 2, &[0; 4]).is_err());
    }
}
