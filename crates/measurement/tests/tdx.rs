//! MRTD against an independent, literal reading of the TDX module's specification.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;
mod real;
mod volume;

use std::fs;

use image::{Image, Tdvf};
use measurement::ovmf::Firmware;
use measurement::tdx::{FwCfgFiles, PageOrder, Rtmr0Error, TdxError, mrtd, rtmr0};
use measurement::{Digest, Sha384Digest};
use real::Debian;

fn of(image: &Image, order: PageOrder) -> Result<String, TdxError> {
    mrtd(&Firmware::parse(&image.build()).unwrap(), order).map(|mrtd| mrtd.to_string())
}

/// What the module hashes, collected in one buffer.
fn literally(image: &Image, order: PageOrder) -> String {
    let firmware = image.build();
    let mut hashed = Vec::new();
    let call = |name: &str, address: u64| {
        let mut block = name.as_bytes().to_vec();
        block.resize(16, 0);
        block.extend(address.to_le_bytes());
        block.resize(128, 0);
        block
    };
    let (firmware, call) = (&firmware, &call);
    for section in image.tdvf.as_ref().unwrap() {
        let pages: Vec<u64> = (0..section.memory / 4096).collect();
        let add = |page: u64| match section.attributes & 2 {
            0 => call("MEM.PAGE.ADD", section.address + page * 4096),
            _ => Vec::new(),
        };
        let extend = |page: u64| {
            let chunks = if section.attributes & 1 == 1 { 0..16 } else { 0..0 };
            chunks.flat_map(move |chunk| {
                let at = page * 4096 + chunk * 256;
                let from = usize::try_from(u64::from(section.offset) + at).unwrap();
                [call("MR.EXTEND", section.address + at), firmware[from..from + 256].to_vec()].concat()
            })
        };
        match order {
            PageOrder::SinglePass => pages.iter().for_each(|p| {
                hashed.extend(add(*p));
                hashed.extend(extend(*p));
            }),
            PageOrder::TwoPass => {
                pages.iter().for_each(|p| hashed.extend(add(*p)));
                pages.iter().for_each(|p| hashed.extend(extend(*p)));
            }
        }
    }
    Sha384Digest::of(&hashed).to_string()
}

#[test]
fn both_orders_are_the_modules_calls() {
    let mut late = Image::inteltdx();
    late.tdvf.as_mut().unwrap().push(Tdvf {
        address: 0x90_0000,
        memory: 0x1000,
        kind: 3,
        attributes: 2,
        ..Tdvf::default()
    });
    for image in [Image::inteltdx(), late] {
        for order in [PageOrder::SinglePass, PageOrder::TwoPass] {
            assert_eq!(of(&image, order).unwrap(), literally(&image, order));
        }
    }
    let image = Image::inteltdx();
    assert_ne!(of(&image, PageOrder::SinglePass), of(&image, PageOrder::TwoPass));
}

#[test]
fn firmware_for_something_else_is_refused() {
    assert_eq!(of(&Image::amdsev(), PageOrder::SinglePass), Err(TdxError::NotForTdx));
    let mut unmeasured = Image::inteltdx();
    unmeasured.tdvf.as_mut().unwrap().remove(0);
    let error = of(&unmeasured, PageOrder::SinglePass).unwrap_err().to_string();
    assert!(error.contains("TDVF metadata: no section of it is measured"), "{error}");
}

#[test]
fn debians_firmware_has_a_digest_that_only_measured_parts_change() {
    let Some(path) = Debian::IntelTdx.find() else { return };
    let mut image = fs::read(path).unwrap();
    let digest =
        |image: &[u8]| mrtd(&Firmware::parse(image).unwrap(), PageOrder::SinglePass).unwrap().digest();
    let before = digest(&image);
    assert_ne!(before, Digest::ZERO);
    // The variables at the front are measured into RTMR0 when the TD runs, not into MRTD.
    image[0x1000] ^= 1;
    assert_eq!(digest(&image), before);
    let middle = image.len() / 2;
    image[middle] ^= 1;
    assert_ne!(digest(&image), before);
}

#[test]
fn rtmr0_of_builds_that_measure_something_else_is_refused() {
    let error = |image: Image| {
        rtmr0(&Firmware::parse(&image.build()).unwrap(), 512 << 20, &FwCfgFiles::new()).unwrap_err()
    };
    let newer = volume::section(&[volume::TDX[0], volume::SMBIOS_MEASUREMENT]);
    let error_of_newer = error(Image { volumes: newer, ..Image::inteltdx() });
    assert_eq!(error_of_newer, Rtmr0Error::MeasuresMore);
    assert!(error_of_newer.to_string().contains("edk2-stable202505"));
    assert_eq!(error(Image { variables: true, ..Image::inteltdx() }), Rtmr0Error::Variables);
    // What is expected of the rest: ACPI files.
    let known = volume::section(&volume::TDX);
    assert!(matches!(error(Image { volumes: known, ..Image::inteltdx() }), Rtmr0Error::NoFile(_)));
}
