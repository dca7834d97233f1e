//! The TD hand-off block: the memory map that QEMU writes for the firmware of a TD.
//!
//! Sources: QEMU, `target/i386/kvm/tdx.c` (which ranges), `hw/i386/tdvf-hob.c` (the bytes), `hw/i386/pc_q35.c` (the
//! memory below 4 GiB); UEFI Platform Initialization Specification, volume 3, "HOB Code Definitions".

use super::rtmr0::Rtmr0Error;
use crate::ovmf::{PageRange, TdvfMetadata, TdvfSectionKind};

/// Most memory that q35 puts below 4 GiB, for machines smaller than this; larger ones get [`LOW_OF_LARGE`] there.
const LOW: u64 = 0xb000_0000;
const LOW_OF_LARGE: u64 = 0x8000_0000;
const FOUR_GIB: u64 = 1 << 32;

/// EFI_RESOURCE_SYSTEM_MEMORY: there since before the TD ran.
const ADDED: u32 = 0;
/// EFI_RESOURCE_MEMORY_UNACCEPTED: to be accepted by the guest.
const UNACCEPTED: u32 = 7;
/// Present, initialized, tested.
const ATTRIBUTES: u32 = 7;

/// The list up to its end mark, which is what the firmware measures.
pub(super) fn hand_off_block(metadata: &TdvfMetadata<'_>, memory: u64) -> Result<Vec<u8>, Rtmr0Error> {
    let place = metadata.sections().iter().find(|s| s.kind == TdvfSectionKind::HandOffBlock);
    let place = place.ok_or(Rtmr0Error::NoHandOffBlock)?.range;
    let mut ranges = memory_ranges(memory)?;
    for section in metadata.sections() {
        if matches!(section.kind, TdvfSectionKind::HandOffBlock | TdvfSectionKind::TemporaryMemory) {
            add(&mut ranges, section.range)?;
        }
    }
    ranges.sort_unstable_by_key(|(start, ..)| *start);

    let size = 56 + 48 * ranges.len() as u64;
    if size + 8 > place.size() {
        return Err(Rtmr0Error::HandOffBlockSize { needed: size + 8, room: place.size() });
    }
    let mut block = Vec::new();
    header(&mut block, 1, 56);
    block.extend(9_u32.to_le_bytes()); // version
    block.extend([0; 4 + 4 * 8]); // boot mode; memory limits that nobody reads
    block.extend((place.start() + size + 8).to_le_bytes()); // end of the list with its end mark
    for (start, size, kind) in ranges {
        header(&mut block, 3, 48);
        block.extend([0; 16]); // no owner
        block.extend(kind.to_le_bytes());
        block.extend(ATTRIBUTES.to_le_bytes());
        block.extend(start.to_le_bytes());
        block.extend(size.to_le_bytes());
    }
    Ok(block)
}

fn header(block: &mut Vec<u8>, kind: u16, length: u16) {
    block.extend(kind.to_le_bytes());
    block.extend(length.to_le_bytes());
    block.extend([0; 4]);
}

/// The memory as q35 lays it out: start, size, kind.
fn memory_ranges(memory: u64) -> Result<Vec<(u64, u64, u32)>, Rtmr0Error> {
    if memory == 0 || PageRange::new(FOUR_GIB, memory).is_none() {
        return Err(Rtmr0Error::Memory(memory));
    }
    let low = memory.min(if memory >= LOW { LOW_OF_LARGE } else { LOW });
    let mut ranges = vec![(0, low, UNACCEPTED)];
    if memory > low {
        ranges.push((FOUR_GIB, memory - low, UNACCEPTED));
    }
    Ok(ranges)
}

/// Takes `added` out of the unaccepted range around it.
fn add(ranges: &mut Vec<(u64, u64, u32)>, added: PageRange) -> Result<(), Rtmr0Error> {
    let around = ranges.iter_mut().find(|(start, size, kind)| {
        *kind == UNACCEPTED && *start <= added.start() && added.end() <= *start + *size
    });
    let around = around.ok_or(Rtmr0Error::OutsideMemory(added))?;
    let (start, size, _) = std::mem::replace(around, (added.start(), added.size(), ADDED));
    let (before, after) = (added.start() - start, start + size - added.end());
    ranges.extend((before > 0).then_some((start, before, UNACCEPTED)));
    ranges.extend((after > 0).then_some((added.end(), after, UNACCEPTED)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_split_as_q35_does() {
        let gib = 1_u64 << 30;
        assert_eq!(memory_ranges(gib).unwrap(), [(0, gib, UNACCEPTED)]);
        assert_eq!(memory_ranges(LOW - 4096).unwrap(), [(0, LOW - 4096, UNACCEPTED)]);
        let split = [(0, 2 * gib, UNACCEPTED), (4 * gib, LOW - 2 * gib, UNACCEPTED)];
        assert_eq!(memory_ranges(LOW).unwrap(), split);
        for wrong in [0, 4095, 1 << 52, u64::MAX] {
            assert_eq!(memory_ranges(wrong), Err(Rtmr0Error::Memory(wrong)));
        }
    }

    #[test]
    fn added_ranges_leave_the_rest_of_their_surroundings() {
        let range = |start, size| PageRange::new(start, size).unwrap();
        let mut ranges = vec![(0, 0x10000, UNACCEPTED)];
        for added in [range(0x4000, 0x2000), range(0x6000, 0x1000), range(0xf000, 0x1000)] {
            add(&mut ranges, added).unwrap();
        }
        ranges.sort_unstable();
        let expected = [
            (0, 0x4000, UNACCEPTED),
            (0x4000, 0x2000, ADDED),
            (0x6000, 0x1000, ADDED),
            (0x7000, 0x8000, UNACCEPTED),
            (0xf000, 0x1000, ADDED),
        ];
        assert_eq!(ranges, expected);
        for wrong in [range(0x5000, 0x1000), range(0x8000, 0x8000), range(0x20000, 0x1000)] {
            assert_eq!(add(&mut ranges, wrong), Err(Rtmr0Error::OutsideMemory(wrong)));
        }
    }
}
