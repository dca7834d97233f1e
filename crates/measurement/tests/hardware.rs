//! What processors have reported, against what is computed for the same guests.
//!
//! The reports are public test data of the dstack project (Apache-2.0, as of 2026-08-07); facts of them are written down here:
//! - an SNP report of an EPYC 7003 ("Milan"), captured on 2026-06-17, signed by a chip key that AMD's root vouches for
//!   (`dstack/dstack-attest/tests/sev_snp_fixture.README.md`), with the launch inputs (`dstack/dstack-mr/src/sev.rs`);
//! - the event log of a TD as its firmware left it in ACPI's CCEL table (`dstack/cc-eventlog/samples/ccel.bin`).

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;
mod real;
mod volume;

use std::fs;

use image::Image;
use measurement::ovmf::{Firmware, TdvfSectionKind};
use measurement::snp::{
    CpuSignature, FirmwareDigest, Guest, GuestFeatures, KernelHashes, VcpuCount, launch_digest_after,
};
use measurement::tdx::{FwCfgFiles, TABLE_LOADER, rtmr0, rtmr1};
use measurement::{Cmdline, Sha256Digest, Sha384Digest};

/// Two vCPUs of QEMU 10.0.2's EPYC-v4, kernel hashes, the sections of edk2's AmdSev build.
#[test]
fn the_launch_digest_is_the_one_that_an_epyc_has_signed() {
    // The metadata's sections, the hash table's place and the reset vector are those of the captured guest's firmware.
    let built = Image::amdsev().build();
    let metadata = Firmware::parse(&built).unwrap().sev().unwrap().unwrap();
    let table = metadata.kernel_hashes().unwrap();
    assert_eq!((table.page + table.offset as u64, metadata.reset_eip()), (8_457_216, Some(8_433_668)));
    let sections: Vec<_> = metadata.sections().iter().map(|s| (s.range.start(), s.range.size())).collect();
    let captured = [
        (8_388_608, 36_864),
        (8_429_568, 12_288),
        (8_441_856, 4096),
        (8_445_952, 4096),
        (8_450_048, 4096),
        (8_458_240, 61_440),
        (8_454_144, 4096),
    ];
    assert_eq!(sections, captured);

    let sha256 = |text: &str| text.parse::<Sha256Digest>().unwrap();
    let cmdline = "console=ttyS0 init=/init panic=1 net.ifnames=0 biosdevname=0 mce=off oops=panic pci=noearly \
        pci=nommconf random.trust_cpu=y random.trust_bootloader=n tsc=reliable no-kvmclock \
        dstack.rootfs_hash=ca5adaef0ac3a36108035925763b48a5818f634e700fbaab561d419fd30d7121 \
        dstack.rootfs_size=490713088";
    let kernel = KernelHashes {
        kernel: sha256("dd9ea274ce9a07090b22e8284b0c841b65c021c2d15ca57d0f16731089dd226c"),
        initrd: sha256("5f844c4a2ca5a3d0711b3db38293b21ba929bb8e0b3c5bc1a779a57f69221c19"),
        ..KernelHashes::new(b"", None, Cmdline::new(cmdline).unwrap())
    };
    let firmware: Sha384Digest =
        "ffb57e393469a497c0e3b07bd1c97d8611e555f464d14491837665893ac642b263a71f9507ff100a847897fe0c3f8c6f"
            .parse()
            .unwrap();
    let guest = Guest {
        vcpus: VcpuCount::new(2).unwrap(),
        cpu: CpuSignature::of_model("EPYC-v4").unwrap(),
        features: GuestFeatures::SNP,
        kernel: Some(kernel),
    };
    let digest = launch_digest_after(FirmwareDigest::from_digest(firmware), &metadata, &guest).unwrap();
    assert_eq!(
        digest.to_string(),
        "7f51e17f72a04d5422cb2c00998166536019a217376f3aa45a630e59c805a599847ff250dbffcd07e1ba639771d6f05d"
    );
}

/// RTMR0's events in the order of the TD's log; `None` for what is that machine's own (memory, ACPI tables).
const RTMR0: [Option<&str>; 13] = [
    None,
    Some(CFV),
    Some("9dc3a1f80bcec915391dcda5ffbb15e7419f77eab462bbf72b42166fb70d50325e37b36f93537a863769bcf9bedae6fb"),
    Some("6f2e3cbc14f9def86980f5f66fd85e99d63e69a73014ed8a5633ce56eca5b64b692108c56110e22acadcef58c3250f1b"),
    Some("d607c0efb41c0d757d69bca0615c3a9ac0b1db06c557d992e906c6b7dee40e0e031640c7bfd7bcd35844ef9edeadc6f9"),
    Some("08a74f8963b337acb6c93682f934496373679dd26af1089cb4eaf0c30cf260a12e814856385ab8843e56a9acea19e127"),
    Some("18cc6e01f0c6ea99aa23f8a280423e94ad81d96d0aeb5180504fc0f7a40cb3619dd39bd6a95ec1680a86ed6ab0f9828d"),
    Some("394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0"),
    None,
    None,
    None,
    Some("1dd6f7b457ad880d840d41c961283bab688e94e4b59359ea45686581e90feccea3c624b1226113f824f315eb60ae0a7c"),
    Some("23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298"),
];
/// The variable store: that of an edk2 build without variables.
const CFV: &str =
    "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790";
/// RTMR1's events after the kernel.
const RTMR1: [&str; 4] = [
    "77a0dab2312b4e1e57a84d865a21e5b2ee8d677a21012ada819d0a98988078d3d740f6346bfe0abaa938ca20439a8d71",
    "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0",
    "214b0bef1379756011344877743fdc2a5382bac6e70362d624ccf3f654407c1b4badf7d8f9295dd3dabdef65b27677e0",
    "0a2e01c85deae718a530ad8c6d20a84009babe6c8989269e950d8cf440c6e997695e64d455c4174a652cd080f6230b74",
];

#[test]
fn the_events_of_a_td_are_in_this_order_and_have_these_digests() {
    let built = Image { volumes: volume::section(&volume::PREDICTED), ..Image::inteltdx() }.build();
    let mut script = Vec::new();
    for name in ["etc/acpi/rsdp", "etc/acpi/tables"] {
        let mut command = [&[1, 0, 0, 0], name.as_bytes()].concat();
        command.resize(128, 0);
        script.extend(command);
    }
    let files = FwCfgFiles::from([
        (TABLE_LOADER.to_owned(), script),
        ("etc/acpi/rsdp".to_owned(), b"rsdp".to_vec()),
        ("etc/acpi/tables".to_owned(), b"tables".to_vec()),
    ]);
    let log = rtmr0(&Firmware::parse(&built).unwrap(), 512 << 20, &files).unwrap();
    assert_eq!(log.events().len(), RTMR0.len());
    for (event, reported) in log.events().iter().zip(RTMR0) {
        // This image's store is smaller than a build's.
        if let Some(reported) = reported.filter(|reported| *reported != CFV) {
            assert_eq!(event.digest.to_string(), reported, "{}", event.name);
        }
    }
    let log = rtmr1(include_bytes!("data/kernel.efi")).unwrap();
    let digests: Vec<_> = log.events()[1..].iter().map(|event| event.digest.to_string()).collect();
    assert_eq!(digests, RTMR1);
}

/// The firmware that `guest-image/build firmware` makes ships the very variable store that the TD's firmware measured.
#[test]
fn our_firmwares_variable_store_is_the_one_that_a_td_has_measured() {
    let Some(directory) = real::built() else { return };
    let built = fs::read(directory.join("OVMF.fd")).unwrap();
    let metadata = Firmware::parse(&built).unwrap().tdvf().unwrap().unwrap();
    let store = metadata.sections().iter().find(|s| s.kind == TdvfSectionKind::ConfigurationVolume).unwrap();
    assert_eq!(Sha384Digest::of(store.data).to_string(), CFV);
}
