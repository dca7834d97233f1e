//! How much address space devices take, and whether the guest has as much.

use shared_types::NvidiaKind;

use super::AddressWidth;
use super::device::Bar;
use crate::units::MemorySize;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Above 4 GiB, for what is not ours to count: the virtio devices' BARs, and firmware's alignment of them.
const OTHERS: u64 = GIB;
/// Below 4 GiB, between the board's configuration window and its interrupt controllers, less what the board's own
/// devices take (`hw/i386/pc_q35.c` and `OvmfPkg/Library/PlatformInitLib`: 0xc0000000 to 0xfc000000).
const LOW: u64 = 896 * MIB;

/// What the BARs of one device take behind its root port, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BarSpace {
    /// Below 4 GiB.
    pub low: u64,
    /// Above 4 GiB.
    pub high: u64,
}

impl BarSpace {
    /// A window begins at a multiple of the largest BAR in it, so the next window begins no earlier than at the next
    /// multiple: each is rounded up to that. A bridge's windows are of whole MiB.
    pub(super) fn of(bars: &[Bar]) -> Self {
        let window = |high: bool| {
            let sizes = || bars.iter().filter(move |bar| bar.is_high() == high).map(|bar| bar.size);
            let largest = sizes().max().unwrap_or(0).max(MIB);
            let sum = sizes().fold(0, u64::saturating_add);
            sum.checked_next_multiple_of(largest).unwrap_or(u64::MAX)
        };
        Self { low: window(false), high: window(true) }
    }
}

/// The window above 4 GiB for all devices of the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioWindow {
    /// Bytes.
    pub size: u64,
    /// Where it begins at the latest: behind the memory, at a multiple of its size.
    pub base: u64,
}

/// Devices whose BARs do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not between the guest's memory and the end of its addresses.
    #[error(
        "the BARs of {devices} take {} above 4 GiB ({sums}, and {} for other devices); behind {memory} of guest memory that \
         reaches from {} to {}, but physical addresses of {width} bits end at {}: assign fewer devices, or use a host with \
         wider addresses (`address sizes` in /proc/cpuinfo)",
        size(*.window), size(OTHERS), size(*.base), size(.base.saturating_add(*.window)), size(.width.end())
    )]
    High {
        /// How many of which kind.
        devices: String,
        /// Their windows, added up.
        sums: String,
        /// Size of the window of all in bytes.
        window: u64,
        /// The guest's memory.
        memory: MemorySize,
        /// Where the window begins.
        base: u64,
        /// Width of a physical address.
        width: AddressWidth,
    },
    /// Not below 4 GiB.
    #[error(
        "the BARs of {devices} take {} below 4 GiB, where {} are free: assign fewer devices",
        size(*.sum), size(LOW)
    )]
    Low {
        /// How many of which kind.
        devices: String,
        /// Their windows in bytes, added up.
        sum: u64,
    },
}

impl MmioWindow {
    /// The window for devices that take these spaces, behind `memory`.
    pub(super) fn of(
        spaces: &[(NvidiaKind, BarSpace)],
        memory: MemorySize,
        width: AddressWidth,
    ) -> Result<Self, WindowError> {
        let total = |part: fn(&BarSpace) -> u64| {
            spaces.iter().map(|(_, space)| part(space)).fold(0, u64::saturating_add)
        };
        let low = total(|space| space.low);
        if low > LOW {
            return Err(WindowError::Low { devices: names(spaces), sum: low });
        }
        let high = total(|space| space.high).saturating_add(OTHERS);
        let align = 1_u64 << high.ilog2();
        let base = memory_end(memory).checked_next_multiple_of(align).unwrap_or(u64::MAX);
        let end = base.saturating_add(high);
        if end > width.end() {
            let (devices, sums) = (names(spaces), sums(spaces));
            return Err(WindowError::High { devices, sums, window: high, memory, base, width });
        }
        Ok(Self { size: high, base })
    }
}

/// Where the guest's memory ends: from 2.75 GiB on the board keeps 2 GiB below 4 GiB and has the rest above
/// (`hw/i386/pc_q35.c`).
fn memory_end(memory: MemorySize) -> u64 {
    const LARGEST_LOW: u64 = 0xb000_0000;
    match memory.bytes() {
        small if small < LARGEST_LOW => 4 * GIB,
        large => large.saturating_add(2 * GIB),
    }
}

/// "8 GPUs and 4 NVSwitches"
fn names(spaces: &[(NvidiaKind, BarSpace)]) -> String {
    let count = |kind| spaces.iter().filter(|(of, _)| *of == kind).count();
    let name = |count, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let parts = [
        name(count(NvidiaKind::Gpu), "GPU", "GPUs"),
        name(count(NvidiaKind::NvSwitch), "NVSwitch", "NVSwitches"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

/// "8 x 256 GiB", equal windows together, in the order in which they first come.
fn sums(spaces: &[(NvidiaKind, BarSpace)]) -> String {
    let mut groups: Vec<(u64, usize)> = Vec::new();
    for (_, space) in spaces.iter().filter(|(_, space)| space.high > 0) {
        match groups.iter_mut().find(|(size, _)| *size == space.high) {
            Some((_, count)) => *count += 1,
            None => groups.push((space.high, 1)),
        }
    }
    groups
        .into_iter()
        .map(|(high, count)| format!("{count} x {}", size(high)))
        .collect::<Vec<_>>()
        .join(" + ")
}

fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes % GIB == 0 => format!("{} GiB", bytes / GIB),
        bytes => format!("{} MiB", bytes.div_ceil(MIB)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(size: u64, wide: bool, prefetchable: bool) -> Bar {
        Bar { index: 0, size, wide, prefetchable }
    }

    #[test]
    fn a_window_is_rounded_up_to_its_largest_bar() {
        let h100 = [bar(16 * MIB, true, true), bar(128 * GIB, true, true), bar(32 * MIB, true, true)];
        assert_eq!(BarSpace::of(&h100), BarSpace { low: 0, high: 256 * GIB });
        let small = [bar(4096, false, false), bar(16 * MIB, false, true), bar(32 * MIB, true, false)];
        assert_eq!(BarSpace::of(&small), BarSpace { low: 64 * MIB, high: 0 });
        assert_eq!(BarSpace::of(&[]), BarSpace::default());
        assert_eq!(BarSpace::of(&[bar(4096, true, true)]).high, MIB);
        assert_eq!(BarSpace::of(&[bar(u64::MAX, true, true), bar(1, true, true)]).high, u64::MAX);
    }

    fn window(gpus: usize, high: u64, gib: u64, bits: u32) -> Result<MmioWindow, WindowError> {
        let spaces = vec![(NvidiaKind::Gpu, BarSpace { low: 0, high }); gpus];
        MmioWindow::of(&spaces, MemorySize::from_mib(gib * 1024), AddressWidth::new(bits).unwrap())
    }

    #[test]
    fn the_window_stands_behind_memory_and_below_the_end_of_addresses() {
        let one = window(1, 256 * GIB, 2, 40).unwrap();
        assert_eq!((one.size, one.base), (257 * GIB, 256 * GIB));
        assert_eq!(window(1, 256 * GIB, 400, 40).unwrap().base, 512 * GIB);
        let eight = window(8, 512 * GIB, 1600, 46).unwrap();
        assert_eq!((eight.size, eight.base), (4097 * GIB, 4096 * GIB));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic() {
        let text = window(8, 256 * GIB, 64, 40).unwrap_err().to_string();
        for part in [
            "8 GPUs take 2049 GiB",
            "8 x 256 GiB",
            "1 GiB for other",
            "65536 MiB of guest",
            "from 2048 GiB to 4097 GiB",
            "of 40 bits end at 1024 GiB",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let huge = vec![(NvidiaKind::NvSwitch, BarSpace { low: GIB, high: 0 })];
        let error = MmioWindow::of(&huge, MemorySize::ZERO, AddressWidth::EMULATED).unwrap_err();
        assert!(error.to_string().contains("1 NVSwitch take 1 GiB below 4 GiB, where 896 MiB"), "{error}");
        window(usize::from(u8::MAX), u64::MAX, 1, 52).unwrap_err();
    }
}
