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

/// Why there is no RTMR0 of an image with these packed sections; without ACPI files there is none of any.
fn rtmr0_error(sections: &[Vec<u8>]) -> Rtmr0Error {
    let image = Image { volumes: sections.concat(), ..Image::inteltdx() };
    rtmr0(&Firmware::parse(&image.build()).unwrap(), 512 << 20, &FwCfgFiles::new()).unwrap_err()
}

#[test]
fn rtmr0_of_builds_that_measure_something_else_is_refused() {
    use volume::{ACPI_EVENT, PREDICTED, SMBIOS_MEASUREMENT, TDX, section};
    // What is expected of the rest: ACPI files.
    assert!(matches!(rtmr0_error(&[section(&PREDICTED)]), Rtmr0Error::NoFile(_)));
    assert!(matches!(rtmr0_error(&[section(&TDX), section(&[ACPI_EVENT])]), Rtmr0Error::NoFile(_)));

    let newer = rtmr0_error(&[section(&[TDX[0], ACPI_EVENT, SMBIOS_MEASUREMENT])]);
    assert_eq!(newer, Rtmr0Error::MeasuresMore);
    assert!(newer.to_string().contains("edk2-stable202505"));
    // The driver is in another volume.
    assert_eq!(rtmr0_error(&[section(&PREDICTED), section(&[SMBIOS_MEASUREMENT])]), Rtmr0Error::MeasuresMore);

    let older = rtmr0_error(&[section(&TDX)]);
    assert_eq!(older, Rtmr0Error::MeasuresLess);
    assert!(older.to_string().contains("edk2-stable202302"));

    let image = Image { variables: true, ..Image::inteltdx() };
    let variables = rtmr0(&Firmware::parse(&image.build()).unwrap(), 512 << 20, &FwCfgFiles::new());
    assert_eq!(variables.unwrap_err(), Rtmr0Error::Variables);
}

#[test]
fn rtmr0_of_a_build_that_does_not_tell_what_it_measures_is_refused() {
    use volume::{ACPI_EVENT, PREDICTED, around, pack, section};
    let good = section(&PREDICTED);
    let with_byte = |at: usize, byte: u8| {
        let mut section = good.clone();
        section[at] = byte;
        section
    };
    for (why, sections) in [
        ("nothing is packed", vec![]),
        ("no driver for TDX", vec![section(&[ACPI_EVENT])]),
        ("packed by something else", vec![with_byte(4, 0)]),
        ("a dictionary of 4 GiB", vec![with_byte(28, 0xff)]),
        // What else is measured may be in the one that cannot be read.
        ("one of two is cut short", vec![good.clone(), around(&pack(&vec![7; 0x9000])[..30])]),
        ("one of two is too large", vec![good.clone(), around(&pack(&vec![0; (64 << 20) + 1]))]),
        ("too many", std::iter::once(good.clone()).chain((0..16).map(|_| section(&[]))).collect()),
    ] {
        assert_eq!(rtmr0_error(&sections), Rtmr0Error::Untold, "{why}");
    }
    let most = std::iter::once(good.clone()).chain((0..15).map(|_| section(&[])));
    assert!(matches!(rtmr0_error(&most.collect::<Vec<_>>()), Rtmr0Error::NoFile(_)));
}
