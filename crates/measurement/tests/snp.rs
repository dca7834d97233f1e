//! The launch digest against other implementations of it.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;
mod real;

use std::fs;
use std::path::Path;

use measurement::Cmdline;
use measurement::ovmf::{Firmware, Kind};
use measurement::snp::{
    CpuSignature, FirmwareDigest, Guest, GuestFeatures, KernelHashes, SnpError, VcpuCount, launch_digest,
    launch_digest_after,
};
use sev::measurement::snp::{SnpMeasurementArgs, calc_snp_ovmf_hash, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures as SevFeatures, VMMType};

use image::Image;
use real::Debian;

/// The models that the crate `sev` 8 knows.
const MODELS: [&str; 18] = [
    "EPYC",
    "EPYC-v1",
    "EPYC-v2",
    "EPYC-IBPB",
    "EPYC-v3",
    "EPYC-v4",
    "EPYC-Rome",
    "EPYC-Rome-v1",
    "EPYC-Rome-v2",
    "EPYC-Rome-v3",
    "EPYC-Milan",
    "EPYC-Milan-v1",
    "EPYC-Milan-v2",
    "EPYC-Genoa",
    "EPYC-Genoa-v1",
    "EPYC-Turin",
    "EPYC-Turin-v1",
    "EPYC-Turin-v2",
];
const VCPUS: [u16; 4] = [1, 2, 16, 64];
const CMDLINE: &str = "console=ttyS0 loglevel=7";

/// What is booted directly: (kernel, initrd, command line).
type Boot<'a> = (&'a [u8], Option<&'a [u8]>, &'a str);

fn guest(model: &str, vcpus: u16, features: u64, boot: Option<Boot<'_>>) -> Guest {
    Guest {
        vcpus: VcpuCount::new(vcpus).unwrap(),
        cpu: CpuSignature::of_model(model).unwrap(),
        features: GuestFeatures::new(features).unwrap(),
        kernel: boot.map(|(k, i, c)| KernelHashes::new(k, i, Cmdline::new(c).unwrap())),
    }
}

/// Compares with the crate `sev` over CPU models, vCPUs, what is booted, and for one model over features.
fn agrees_with_sev(firmware: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        fs::write(dir.path().join(name), content).unwrap();
        dir.path().join(name)
    };
    let (kernel, initrd) = (vec![0x4b; 100_000], vec![0x49; 70_001]);
    let (kernel_file, initrd_file) = (write("kernel", &kernel), write("initrd", &initrd));
    let boots: [Option<Boot<'_>>; 5] = [
        None,
        Some((&kernel, None, "")),
        Some((&kernel, None, CMDLINE)),
        Some((&kernel, Some(&initrd), "")),
        Some((&kernel, Some(&initrd), CMDLINE)),
    ];

    let bytes = fs::read(firmware).unwrap();
    let parsed = Firmware::parse(&bytes).unwrap();
    let metadata = parsed.sev().unwrap().unwrap();
    let ours = FirmwareDigest::of(&parsed);
    let theirs = calc_snp_ovmf_hash(firmware.to_owned()).unwrap().get_hex_ld();
    assert_eq!(ours.digest().to_string(), theirs);
    // With that digest given, `sev` needs but the metadata, and would read the whole file a thousand times.
    let metadata_file = write("metadata", &bytes[bytes.len() - 0x10000..]);

    let mut compared = 0;
    for model in MODELS {
        let features = if model == "EPYC-Genoa" { &[0x1, 0x21, 0x201][..] } else { &[0x1] };
        for vcpus in VCPUS {
            for &features in features {
                for boot in boots {
                    let theirs = snp_calc_launch_digest(SnpMeasurementArgs {
                        vcpus: vcpus.into(),
                        vcpu_type: CpuType::try_from(model).unwrap(),
                        ovmf_file: metadata_file.clone(),
                        guest_features: SevFeatures(features),
                        kernel_file: boot.map(|_| kernel_file.clone()),
                        initrd_file: boot.and_then(|(_, initrd, _)| initrd).map(|_| initrd_file.clone()),
                        append: boot.map(|(_, _, cmdline)| cmdline),
                        ovmf_hash_str: Some(&theirs),
                        vmm_type: Some(VMMType::QEMU),
                    });
                    let guest = guest(model, vcpus, features, boot);
                    let digest = launch_digest_after(ours, &metadata, &guest).unwrap();
                    assert_eq!(
                        digest.to_string(),
                        theirs.unwrap().get_hex_ld(),
                        "{model} {vcpus} {features:#x}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, (17 + 3) * 4 * 5);

    // Once the whole way.
    let theirs = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus: 4,
        vcpu_type: CpuType::EpycGenoa,
        ovmf_file: firmware.to_owned(),
        guest_features: SevFeatures(1),
        kernel_file: Some(kernel_file),
        initrd_file: Some(initrd_file),
        append: Some(CMDLINE),
        ovmf_hash_str: None,
        vmm_type: None,
    });
    let digest = launch_digest(&parsed, &guest("EPYC-Genoa", 4, 1, boots[4])).unwrap();
    assert_eq!(digest.to_string(), theirs.unwrap().get_hex_ld());
}

#[test]
fn the_crate_sev_agrees_on_a_synthetic_firmware() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("firmware");
    fs::write(&path, Image::amdsev().build()).unwrap();
    agrees_with_sev(&path);
}

#[test]
fn the_crate_sev_agrees_on_debians_firmware() {
    if let Some(path) = Debian::AmdSev.find() {
        agrees_with_sev(&path);
    }
}

/// Published vectors: virtee/sev-snp-measure, `tests/test_guest.py`, with the AmdSev firmware of
/// edk2-stable202405, whose digest and metadata are all that they need.
#[test]
fn published_vectors_are_reproduced() {
    let firmware = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa\
                    16aff8c374c2a55c467a50da6d466b74";
    let firmware = FirmwareDigest::from_digest(firmware.parse().unwrap());
    let image = Image {
        sev: Some(vec![
            (0x80_0000, 0x9000, 1),
            (0x80_a000, 0x3000, 1),
            (0x80_d000, 0x1000, 2),
            (0x80_e000, 0x1000, 3),
            (0x80_f000, 0x1000, 4),
            (0x81_0000, 0x1000, 0x10),
            (0x81_1000, 0xf000, 1),
        ]),
        ..Image::amdsev()
    }
    .build();
    let metadata = Firmware::parse(&image).unwrap().sev().unwrap().unwrap();
    for (cmdline, features, expected) in [
        (
            CMDLINE,
            0x1,
            "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
        ),
        (
            CMDLINE,
            0x21,
            "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977",
        ),
        (
            "",
            0x1,
            "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5",
        ),
        (
            "",
            0x21,
            "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198",
        ),
    ] {
        let guest = guest("EPYC-v4", 1, features, Some((b"", Some(b""), cmdline)));
        let digest = launch_digest_after(firmware, &metadata, &guest).unwrap();
        assert_eq!(digest.to_string(), expected, "{cmdline:?} {features:#x}");
    }
}

#[test]
fn each_input_changes_the_digest() {
    let bytes = Image::amdsev().build();
    let firmware = Firmware::parse(&bytes).unwrap();
    let base = guest("EPYC-Milan", 2, 1, Some((b"kernel", Some(b"initrd"), "a=b")));
    let mut digests = vec![launch_digest(&firmware, &base).unwrap()];
    for other in [
        guest("EPYC-Milan", 3, 1, Some((b"kernel", Some(b"initrd"), "a=b"))),
        guest("EPYC-Genoa", 2, 1, Some((b"kernel", Some(b"initrd"), "a=b"))),
        guest("EPYC-Milan", 2, 0x21, Some((b"kernel", Some(b"initrd"), "a=b"))),
        guest("EPYC-Milan", 2, 1, Some((b"kernem", Some(b"initrd"), "a=b"))),
        guest("EPYC-Milan", 2, 1, Some((b"kernel", Some(b"initre"), "a=b"))),
        guest("EPYC-Milan", 2, 1, Some((b"kernel", None, "a=b"))),
        guest("EPYC-Milan", 2, 1, Some((b"kernel", Some(b"initrd"), "a=c"))),
        guest("EPYC-Milan", 2, 1, None),
    ] {
        let digest = launch_digest(&firmware, &other).unwrap();
        assert!(!digests.contains(&digest), "{other:?}");
        digests.push(digest);
    }
    let mut patched = bytes.clone();
    patched[0] ^= 1;
    let digest = launch_digest(&Firmware::parse(&patched).unwrap(), &base).unwrap();
    assert!(!digests.contains(&digest));
}

#[test]
fn firmware_that_cannot_measure_is_refused() {
    let digest = |image: &Image, boot| {
        let bytes = image.build();
        launch_digest(&Firmware::parse(&bytes).unwrap(), &guest("EPYC", 1, 1, boot))
    };
    let boot: Option<Boot<'_>> = Some((b"kernel", None, ""));
    assert_eq!(digest(&Image::plain(), None), Err(SnpError::NotForSnp));
    assert_eq!(digest(&Image::inteltdx(), boot), Err(SnpError::NotForSnp));
    let mut without_hashes = Image::amdsev();
    without_hashes.sev.as_mut().unwrap().pop();
    assert_eq!(digest(&without_hashes, boot), Err(SnpError::NoKernelHashes));
    assert!(digest(&without_hashes, None).is_ok());
    let without_reset = Image { reset_eip: None, ..Image::amdsev() };
    assert_eq!(digest(&without_reset, None), Err(SnpError::NoResetBlock));
}

#[test]
fn debians_tdx_firmware_measures_no_kernel_for_snp() {
    let Some(path) = Debian::IntelTdx.find() else { return };
    let bytes = fs::read(path).unwrap();
    let firmware = Firmware::parse(&bytes).unwrap();
    assert_eq!(firmware.kind().unwrap(), Kind::TdxSecureBoot);
    let error = launch_digest(&firmware, &guest("EPYC", 1, 1, Some((b"kernel", None, "")))).unwrap_err();
    assert_eq!(error, SnpError::NoKernelHashes);
}
