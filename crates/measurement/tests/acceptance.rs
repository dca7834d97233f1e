//! Who accepts a guest's memory, by the firmware's image.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;
mod real;
mod volume;

use std::fs;
use std::path::{Path, PathBuf};

use image::Image;
use measurement::ovmf::{Acceptance, Firmware};
use proptest::prelude::*;
use real::Debian;
use volume::{SNP, TDX, around, pack, section};

use Acceptance::{Eager, Lazy, Unknown};

/// For SNP, for TDX.
fn both(image: &[u8]) -> (Acceptance, Acceptance) {
    let firmware = Firmware::parse(image).unwrap();
    (firmware.snp_acceptance(), firmware.tdx_acceptance())
}

/// An image with these sections, one behind the other.
fn with(sections: &[Vec<u8>]) -> Vec<u8> {
    Image { volumes: sections.concat(), ..Image::amdsev() }.build()
}

#[test]
fn a_driver_with_its_protocol_is_lazy_and_one_without_is_eager() {
    assert_eq!(both(&with(&[])), (Unknown, Unknown));
    assert_eq!(both(&with(&[section(&[])])), (Unknown, Unknown));
    assert_eq!(both(&with(&[section(&TDX)])), (Unknown, Lazy));
    assert_eq!(both(&with(&[section(&TDX[..1])])), (Unknown, Eager));
    assert_eq!(both(&with(&[section(&SNP)])), (Lazy, Unknown));
    assert_eq!(both(&with(&[section(&SNP[..1])])), (Eager, Unknown));
    assert_eq!(both(&with(&[section(&[SNP[0], SNP[1], TDX[0], TDX[1]])])), (Lazy, Lazy));
    // AmdSevDxe has TDX's protocol, too, which makes no firmware one for TDX.
    assert_eq!(both(&with(&[section(&[SNP[0], SNP[1], TDX[1]])])), (Lazy, Unknown));
    // Each driver in a volume of its own.
    assert_eq!(both(&with(&[section(&SNP[..1]), section(&TDX)])), (Eager, Lazy));
}

/// Debian's three, of which OVMF.fd is for both TEEs, and ours.
#[test]
fn real_firmware_is_lazy() {
    let ours = real::built().map(|directory| directory.join("OVMF.fd"));
    let beside = |path: PathBuf| path.with_file_name("OVMF.fd");
    let cases = [
        (Debian::AmdSev.find(), (Lazy, Unknown)),
        (Debian::AmdSev.find().map(beside).filter(|path| path.is_file()), (Lazy, Lazy)),
        (Debian::IntelTdx.find(), (Unknown, Lazy)),
        (ours, (Unknown, Lazy)),
    ];
    for (path, expected) in cases {
        let Some(path) = path else { continue };
        assert_eq!(both(&fs::read(&path).unwrap()), expected, "{}", path.display());
    }
}

/// What is cut off or changed in a real firmware never turns one answer into the other.
#[test]
fn real_firmware_that_is_damaged_is_not_called_eager() {
    let Some(path) = Debian::IntelTdx.find() else { return };
    let whole = fs::read::<&Path>(&path).unwrap();
    for kept in [0x84_000, 0x85_000, 0x100_000, 0x198_000] {
        assert_eq!(both(&whole[..kept]), (Unknown, Unknown), "{kept:#x}");
    }
    for at in [0x84_0b0, 0x90_000, 0x150_000] {
        let mut image = whole.clone();
        image[at] ^= 0x55;
        assert_ne!(both(&image).1, Eager, "{at:#x}");
    }
}

#[test]
fn sections_that_lie_are_passed_over() {
    let good = section(&TDX);
    let changed = |at: usize, byte: u8| {
        let mut section = good.clone();
        section[at] = byte;
        section
    };
    let end = Image::amdsev().size.to_le_bytes();
    for (lie, section) in [
        ("another type", changed(3, 1)),
        ("data in the header", changed(20, 23)),
        ("data behind the end", changed(21, 0xff)),
        ("no size", [&[0; 3], &good[3..]].concat()),
        ("a size beyond the image", [&[end[0], end[1], end[2]], &good[3..]].concat()),
        ("properties LZMA has not", changed(24, 0xff)),
        ("a dictionary of 4 GiB", changed(28, 0xff)),
        ("a stream that is cut short", around(&pack(&vec![7; 0x9000])[..30])),
        ("nothing", around(&[])),
    ] {
        assert_eq!(both(&with(std::slice::from_ref(&section))), (Unknown, Unknown), "{lie}");
        // It does not hide the one behind it.
        assert_eq!(both(&with(&[section, good.clone()])), (Unknown, Lazy), "{lie}");
    }
}

#[test]
fn no_more_is_unpacked_than_a_firmware_may_have() {
    let bomb = around(&pack(&vec![0; (64 << 20) + 1]));
    assert_eq!(both(&with(&[bomb, section(&TDX)])), (Unknown, Lazy));
    let half = around(&pack(&vec![0; (32 << 20) + 1]));
    assert_eq!(both(&with(&[half.clone(), half, section(&TDX)])), (Unknown, Lazy));
}

proptest! {
    #[test]
    fn any_bytes_in_the_section_have_an_answer(packed: Vec<u8>, at in 0_usize..200, byte: u8) {
        both(&with(&[around(&packed)]));
        let mut section = section(&TDX);
        let at = at % section.len();
        section[at] = byte;
        prop_assert_eq!(both(&with(&[section])).0, Unknown);
    }
}
