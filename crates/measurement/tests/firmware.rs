//! What the firmware's metadata may say and what it may not.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;
mod real;

use std::fs;

use image::{Image, SEV_AT, Sev, TDVF_AT, Tdvf, put};
use measurement::ovmf::{
    Firmware, FirmwareError, KernelHashSupport, Kind, MeasuredTables, Metadata, MetadataProblem, PageRange,
};
use proptest::prelude::*;
use real::Debian;

fn sev_problem(image: &[u8]) -> MetadataProblem {
    match Firmware::parse(image).unwrap().sev().unwrap_err() {
        FirmwareError::Metadata { metadata: Metadata::Sev, problem } => problem,
        other => panic!("{other}"),
    }
}

fn tdvf_problem(image: &[u8]) -> MetadataProblem {
    match Firmware::parse(image).unwrap().tdvf().unwrap_err() {
        FirmwareError::Metadata { metadata: Metadata::Tdvf, problem } => problem,
        other => panic!("{other}"),
    }
}

fn with_sev(sections: Vec<Sev>) -> Vec<u8> {
    Image { sev: Some(sections), ..Image::amdsev() }.build()
}

fn with_tdvf(change: impl FnOnce(&mut Vec<Tdvf>)) -> Vec<u8> {
    let mut image = Image::inteltdx();
    change(image.tdvf.as_mut().unwrap());
    image.build()
}

fn range(start: u64, size: u64) -> PageRange {
    PageRange::new(start, size).unwrap()
}

#[test]
fn kinds_are_told_apart() {
    let kind = |image: Image| Firmware::parse(&image.build()).unwrap().kind().unwrap();
    let without_hashes = || Some(Image::amdsev().sev.unwrap()[..6].to_vec());
    assert_eq!(kind(Image::plain()), Kind::Plain);
    assert_eq!(kind(Image::amdsev()), Kind::Snp(KernelHashSupport::Present));
    assert_eq!(
        kind(Image { sev: without_hashes(), ..Image::amdsev() }),
        Kind::Snp(KernelHashSupport::Absent)
    );
    assert_eq!(kind(Image::inteltdx()), Kind::Tdx);
    assert_eq!(kind(Image { variables: true, ..Image::inteltdx() }), Kind::TdxSecureBoot);
    let both = Image { tdvf: Image::inteltdx().tdvf, variables: true, ..Image::amdsev() };
    assert_eq!(kind(both), Kind::Snp(KernelHashSupport::Present));
    let both = Image { tdvf: Image::inteltdx().tdvf, ..Image::amdsev() };
    assert_eq!(kind(both.clone()), Kind::SnpAndTdx(KernelHashSupport::Present));
    let no_hashes = Image { sev: without_hashes(), hash_table: Some((0, 0)), ..both };
    assert_eq!(kind(no_hashes), Kind::SnpAndTdx(KernelHashSupport::Absent));
}

#[test]
fn debians_firmware_is_what_its_package_says() {
    // The one for TDX has Microsoft's keys, and measures SMBIOS tables; ours does neither.
    for (path, kind, tables) in [
        // It starts TDs by its metadata, and has no driver for them.
        (Debian::AmdSev.find(), Kind::SnpAndTdx(KernelHashSupport::Present), MeasuredTables::Unknown),
        (Debian::IntelTdx.find(), Kind::TdxSecureBoot, MeasuredTables::AcpiAndSmbios),
        (
            real::built().map(|directory| directory.join("OVMF.fd")),
            Kind::SnpAndTdx(KernelHashSupport::Absent),
            MeasuredTables::Acpi,
        ),
    ] {
        let Some(path) = path else { continue };
        let image = fs::read(&path).unwrap();
        let parsed = Firmware::parse(&image).unwrap();
        assert_eq!(parsed.kind().unwrap(), kind, "{}", path.display());
        assert_eq!(parsed.measured_tables(), tables, "{}", path.display());
        assert_eq!(parsed.base() + image.len() as u64, 1 << 32);
    }
}

#[test]
fn sizes_no_firmware_has() {
    for size in [0, 1, 4095, 4097, 64 << 20 | 1, (64 << 20) + 4096] {
        assert_eq!(Firmware::parse(&vec![0; size]).unwrap_err(), FirmwareError::Size(size));
    }
    assert!(Firmware::parse(&[0; 4096]).is_ok());
}

#[test]
fn headers_that_lie() {
    let sev = |from_end, bytes: &[u8]| {
        let mut image = Image::amdsev().build();
        put(&mut image, from_end, bytes);
        sev_problem(&image)
    };
    assert_eq!(sev(SEV_AT, b"ASEW"), MetadataProblem::Signature);
    assert_eq!(sev(SEV_AT - 8, &[2, 0]), MetadataProblem::Version(2));
    assert_eq!(sev(SEV_AT - 12, &[0]), MetadataProblem::Count(0));
    assert_eq!(sev(SEV_AT - 12, &[0xff; 4]), MetadataProblem::Count(u32::MAX));
    let length = |length, count| MetadataProblem::Length { length, count, expected: 100 };
    assert_eq!(sev(SEV_AT - 4, &[99]), length(99, 7));
    assert_eq!(sev(SEV_AT - 4, &[0xff; 4]), length(u32::MAX, 7));

    let tdx = |from_end, bytes: &[u8]| {
        let mut image = Image::inteltdx().build();
        put(&mut image, from_end, bytes);
        tdvf_problem(&image)
    };
    assert_eq!(tdx(TDVF_AT, b"FVDT"), MetadataProblem::Signature);
    assert_eq!(tdx(TDVF_AT - 8, &[0]), MetadataProblem::Version(0));
    assert_eq!(tdx(TDVF_AT - 12, &[65]), MetadataProblem::Count(65));
    assert_eq!(
        tdx(TDVF_AT - 4, &[0, 1]),
        MetadataProblem::Length { length: 256, count: 5, expected: 16 + 5 * 32 }
    );
}

#[test]
fn metadata_outside_the_image() {
    // The offset is the data of the table's entry nearest to its front: find and overwrite it.
    let moved = |image: Image, at: u32, to: u32| {
        let mut bytes = image.build();
        let pattern = [&at.to_le_bytes()[..], &22_u16.to_le_bytes()].concat();
        let found = bytes.windows(6).rposition(|w| w == pattern).unwrap();
        bytes[found..found + 4].copy_from_slice(&to.to_le_bytes());
        bytes
    };
    for to in [0, 15, 0x20001, u32::MAX] {
        assert_eq!(sev_problem(&moved(Image::amdsev(), SEV_AT, to)), MetadataProblem::Place(to));
        assert_eq!(tdvf_problem(&moved(Image::inteltdx(), TDVF_AT, to)), MetadataProblem::Place(to));
    }
    // A header at the very end, whose sections would be behind it.
    let mut bytes = moved(Image::amdsev(), SEV_AT, 16);
    put(&mut bytes, 16, &[b"ASEV", &100_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[7, 0, 0, 0]].concat());
    assert_eq!(sev_problem(&bytes), MetadataProblem::Place(16));
}

#[test]
fn sev_sections_that_cannot_be() {
    let pages = |section, start, size| MetadataProblem::Pages { section, start, size };
    let page = |at| (at, 0x1000, 2);
    for (sections, problem) in [
        (vec![(0x80_0000, 0x1000, 7)], MetadataProblem::Kind { section: 0, kind: 7 }),
        (vec![(0x80_0001, 0x1000, 1)], pages(0, 0x80_0001, 0x1000)),
        (vec![(0x80_0000, 0x1001, 1)], pages(0, 0x80_0000, 0x1001)),
        (vec![(0xffff_f000, 0x2000, 1)], pages(0, 0xffff_f000, 0x2000)),
        (
            vec![(0x80_0000, 0x2000, 2)],
            MetadataProblem::OnePage { section: 0, range: range(0x80_0000, 0x2000) },
        ),
        (vec![(0x80_0000, 0, 3)], MetadataProblem::OnePage { section: 0, range: range(0x80_0000, 0) }),
        (vec![(0x80_0000, 0x3000, 1), page(0x80_2000)], MetadataProblem::Overlap { first: 0, second: 1 }),
        (vec![page(0x80_0000), page(0x80_1000)], MetadataProblem::Twice { first: 0, second: 1 }),
        (
            vec![(0xfffe_0000, 0x1000, 1)],
            MetadataProblem::OverFirmware { section: 0, range: range(0xfffe_0000, 0x1000) },
        ),
        (vec![(0, 0x1000_1000, 1)], MetadataProblem::Covered(0x1000_1000)),
        (vec![(0, 0x1000, 1); 65], MetadataProblem::Count(65)),
    ] {
        assert_eq!(sev_problem(&with_sev(sections)), problem);
    }
    // Debian's TDX firmware has sections of nothing, at 0.
    assert!(Firmware::parse(&with_sev(vec![(0, 0, 4), (0, 0, 1)])).unwrap().sev().is_ok());
}

#[test]
fn a_hash_table_outside_its_page() {
    let page = range(0x81_0000, 0x1000);
    for (base, size) in [(0x81_1000, 0x400), (0x80_fff0, 0x400), (0x81_0c01, 0x400), (0x81_0c00, 175), (0, 0)]
    {
        let image = Image { hash_table: Some((base, size)), ..Image::amdsev() }.build();
        assert_eq!(sev_problem(&image), MetadataProblem::HashTable { base, size, page });
    }
    let image = Image { hash_table: None, ..Image::amdsev() }.build();
    assert_eq!(sev_problem(&image), MetadataProblem::NoHashTable);
}

#[test]
fn tdvf_sections_that_cannot_be() {
    use MetadataProblem as P;
    let first = |change: fn(&mut Tdvf)| tdvf_problem(&with_tdvf(|s| change(&mut s[0])));
    assert_eq!(first(|s| s.kind = 4), P::Kind { section: 0, kind: 4 });
    assert_eq!(
        first(|s| s.address = 0xfffe_4001),
        P::Pages { section: 0, start: 0xfffe_4001, size: 0x1c000 }
    );
    assert_eq!(
        first(|s| s.memory = u64::MAX - 0xfff),
        P::Pages { section: 0, start: 0xfffe_4000, size: u64::MAX - 0xfff }
    );
    assert_eq!(first(|s| s.offset = 0x4001), P::Data { section: 0, offset: 0x4001, size: 0x1c000 });
    assert_eq!(first(|s| s.offset = u32::MAX), P::Data { section: 0, offset: u32::MAX, size: 0x1c000 });
    let data = |data, memory| P::DataSize { section: 0, data, memory };
    assert_eq!(first(|s| s.size = 0), data(0, 0x1c000));
    assert_eq!(first(|s| s.memory = 0x1000), data(0x1c000, 0x1000));
    assert_eq!(first(|s| s.memory = 0x1d000), data(0x1c000, 0x1d000));
    assert_eq!(first(|s| s.attributes = 4), P::Attributes { section: 0, attributes: 4 });
    assert_eq!(first(|s| s.attributes = 3), P::Attributes { section: 0, attributes: 3 });
    assert_eq!(first(|s| s.attributes = 0), P::NothingMeasured);

    let problem = |change: fn(&mut Vec<Tdvf>)| tdvf_problem(&with_tdvf(change));
    assert_eq!(problem(|s| s[2].attributes = 1), P::DataSize { section: 2, data: 0, memory: 0x10000 });
    assert_eq!(problem(|s| s[3].address = 0x81_f000), P::Overlap { first: 2, second: 3 });
    assert_eq!(problem(|s| s[3].kind = 2), P::Twice { first: 3, second: 4 });
    assert_eq!(problem(|s| s[2].memory = 256 << 20), P::Covered((256 << 20) + 0x2_4000));
}

proptest! {
    #[test]
    fn arbitrary_images_never_panic(bytes in proptest::collection::vec(any::<u8>(), 4096)) {
        let firmware = Firmware::parse(&bytes).unwrap();
        let _ = firmware.kind();
    }

    #[test]
    fn damaged_metadata_never_panics(
        damage in proptest::collection::vec((1_u32..0x900, any::<u8>()), 1..8),
    ) {
        let mut image = Image { tdvf: Image::inteltdx().tdvf, ..Image::amdsev() }.build();
        for (from_end, byte) in damage {
            put(&mut image, from_end, &[byte]);
        }
        if let Ok(firmware) = Firmware::parse(&image) {
            let _ = (firmware.sev(), firmware.tdvf(), firmware.kind());
        }
    }

    #[test]
    fn sections_of_any_content_never_panic(
        sev in proptest::collection::vec(any::<Sev>(), 1..5),
        tdvf in proptest::collection::vec(any::<(u32, u32, u64, u64, u8, u8)>(), 1..5),
    ) {
        let tdvf = tdvf.into_iter().map(|(offset, size, address, memory, kind, attributes)| Tdvf {
            offset, size, address, memory, kind: kind.into(), attributes: attributes.into(),
        }).collect();
        let image = Image { sev: Some(sev), tdvf: Some(tdvf), ..Image::amdsev() }.build();
        let firmware = Firmware::parse(&image).unwrap();
        let _ = (firmware.sev(), firmware.tdvf());
    }
}
