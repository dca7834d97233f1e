//! Digests that other tools computed from the same input, committed here.
//!
//! The synthetic firmware is in every checkout; Debian's counts only in the version that the tools were given.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;
mod real;

use std::fs;

use image::Image;
use measurement::ovmf::Firmware;
use measurement::snp::{CpuSignature, Guest, GuestFeatures, KernelHashes, VcpuCount, launch_digest};
use measurement::tdx::{InitrdOption, PageOrder, mrtd, rtmr1, rtmr2};
use measurement::{Cmdline, Sha256Digest};
use real::{Debian, built, say};

/// Firmware 2026.08+ds-2 of Debian forky, by SHA-256.
const AMDSEV_SHA256: &str = "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f";
const INTELTDX_SHA256: &str = "a265075b4147a096109e501e76196df1ec8a18659c26f7401492c597ec88f312";

struct Snp {
    vcpus: u16,
    cpu: CpuSignature,
    features: u64,
    kernel: bool,
    initrd: bool,
    cmdline: &'static str,
    /// With the synthetic firmware.
    synthetic: &'static str,
    /// With Debian's.
    debian: &'static str,
}

/// sev-snp-measure 0.0.13 (PyPI), `--mode snp`; the kernel's content is "kernel", the initrd's "initrd".
fn sev_snp_measure() -> [Snp; 5] {
    let model = |name| CpuSignature::of_model(name).unwrap();
    let none = Snp {
        vcpus: 1,
        cpu: model("EPYC-v4"),
        features: 0x1,
        kernel: false,
        initrd: false,
        cmdline: "",
        synthetic: "04a21adc0d0e7a56d71a488286ac55ddc5df9a9ccc8831446a487577492d93713b3f5663dde98a5a11d38555586ed352",
        debian: "d74bd3ea40b240c3228edc5177ce6193561ebff633dbd0be76d6c143b876d65102425c0e2e8a930857c48daa5eacda58",
    };
    [
        Snp {
            vcpus: 2,
            cpu: model("EPYC-Rome"),
            kernel: true,
            synthetic: "854c60b9774d1e92c101e66c31a741906f576786d36f89e31bafcd547629749c8a67db7355b7a731cc5521464e207bc3",
            debian: "aa210f2f86921c5dfd8eb32ce965c4fe399bba96b3423b0692a6941501d7f5c580cef792d487911ab644d11c87ea5973",
            ..none
        },
        Snp {
            vcpus: 4,
            cpu: model("EPYC-Milan"),
            kernel: true,
            cmdline: "console=ttyS0",
            synthetic: "f5352fc057291a4f1c98ffa9ba00a3a4ec5b9897171f917b230897465ddf723d275f7b7db38b0920f9390c8b823011a4",
            debian: "d7e809ec51f31d2e1b7eac3490db0107d9fa5d3974972f45d4bb103401739a0808a9a202c22a867a63d876de38c64229",
            ..none
        },
        Snp {
            vcpus: 16,
            cpu: model("EPYC-Genoa"),
            features: 0x21,
            kernel: true,
            initrd: true,
            cmdline: "console=ttyS0",
            synthetic: "427f4e89b11382a2f1f74f62543f855d4200402c1cd270ae65101fdf065fafafb92d623e36ff031173a73d0211917e52",
            debian: "d8c82667fc54ae623574fd77405a9859f8836b3c157b2e0ead3d7c92cdd7bf9df8fc1812fbc81319fed2cf40e7e1818b",
        },
        Snp {
            vcpus: 7,
            cpu: "0xb00f21".parse().unwrap(),
            features: 0x201,
            kernel: true,
            initrd: true,
            synthetic: "1d821966d918e3fff965f80ea2ac48db461dde38724dfbef15815480b3c634eaa09a74069a58c7d4161fc134874457e2",
            debian: "0587f16c6f242ae03065d0ae1255a33ee72b4971dd1f338e5e836b1c00a461bc2fe138e57dd69e0be05785572129b339",
            ..none
        },
        none,
    ]
}

fn ours(firmware: &[u8], snp: &Snp) -> String {
    let initrd = snp.initrd.then_some(&b"initrd"[..]);
    let hashes = KernelHashes::new(b"kernel", initrd, Cmdline::new(snp.cmdline).unwrap());
    let guest = Guest {
        vcpus: VcpuCount::new(snp.vcpus).unwrap(),
        cpu: snp.cpu,
        features: GuestFeatures::new(snp.features).unwrap(),
        kernel: snp.kernel.then_some(hashes),
    };
    launch_digest(&Firmware::parse(firmware).unwrap(), &guest).unwrap().to_string()
}

/// The firmware, if it is the one that the tools were given.
fn debian(firmware: Debian, sha256: &str) -> Option<Vec<u8>> {
    let image = fs::read(firmware.find()?).unwrap();
    let found = Sha256Digest::of(&image).to_string();
    if found != sha256 {
        say(&format!("NOT TESTED, {firmware:?} is another version: {found}"));
        return None;
    }
    Some(image)
}

#[test]
fn sev_snp_measure_agrees_on_the_synthetic_firmware() {
    let firmware = Image::amdsev().build();
    for snp in sev_snp_measure() {
        assert_eq!(ours(&firmware, &snp), snp.synthetic);
    }
}

#[test]
fn sev_snp_measure_agrees_on_debians_firmware() {
    let Some(firmware) = debian(Debian::AmdSev, AMDSEV_SHA256) else { return };
    for snp in sev_snp_measure() {
        assert_eq!(ours(&firmware, &snp), snp.debian);
    }
}

fn mrtds(firmware: &[u8]) -> [String; 2] {
    let firmware = Firmware::parse(firmware).unwrap();
    [PageOrder::SinglePass, PageOrder::TwoPass].map(|order| mrtd(&firmware, order).unwrap().to_string())
}

/// dstack-mr of 2026-08-07 (github.com/Dstack-TEE/dstack, 312dc605), both of its page orders.
#[test]
fn dstack_mr_agrees_on_the_synthetic_firmware() {
    let expected = [
        "6455795fc6580f00f8712910fae3dc5d338b448ee5b3bcfe1123e462fafc628c3b553eb3f880be87c3c9170826e9419d",
        "70e721579c5c0fb2bb9a10adda97984e9b2a9dcde544a63ed6a9447e2cdf8c8402b38309ed7f17a3d7dcad612fb8b6f3",
    ];
    assert_eq!(mrtds(&Image::inteltdx().build()), expected);
}

#[test]
fn dstack_mr_agrees_on_debians_firmware() {
    let Some(firmware) = debian(Debian::IntelTdx, INTELTDX_SHA256) else { return };
    let expected = [
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
        "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9",
    ];
    assert_eq!(mrtds(&firmware), expected);
}

/// MRTD of our own build of OVMF, by the hash of its inputs (`firmware.json`): the same inputs give the same firmware
/// on any machine, and a change of either shows here. The algorithm itself is checked above.
#[test]
fn our_firmware_has_the_mrtd_of_its_inputs() {
    const INPUTS: &str = "c44b2dc67f5b5ec69071969ada73351a";
    const MRTD: &str =
        "1c9ffc976c7060bada047def22d4aa1fef4118a4552a5686d86ba4d04d8925e5cffebf396918aa13f3caabf12cd4268f";
    let Some(directory) = built() else { return };
    let manifest = fs::read_to_string(directory.join("firmware.json")).unwrap();
    let [mrtd, _] = mrtds(&fs::read(directory.join("OVMF.fd")).unwrap());
    if manifest.contains(INPUTS) {
        assert_eq!(mrtd, MRTD);
    } else {
        say(&format!("NOT TESTED, our firmware has other inputs; its MRTD is {mrtd}\n{manifest}"));
    }
}

/// osslsigncode 2.9 and sha384sum, by `data/registers`: a kernel that a real linker made, and a command line as a release
/// image has it, handed over as Coffer does, without an initrd.
#[test]
fn osslsigncode_and_sha384sum_agree_on_kernel_and_command_line() {
    let kernel = include_bytes!("data/kernel.efi");
    let line = include_str!("data/cmdline");
    assert_eq!(
        rtmr1(kernel).unwrap().value().to_string(),
        "d374fb3b4e5201bac4b5c503ef42663caad9ee07236c65216015ff6f086820225407a304acb2b71bc6de1ceadb32eaf5"
    );
    let expected =
        "8dfb77758d4f6f6b30efae9d733b9cd22c008483e81c97f484c8497e141e66fff6868ceba3fa07a8a976cf1209336fda";
    for option in [InitrdOption::Before, InitrdOption::After] {
        assert_eq!(rtmr2(Cmdline::new(line).unwrap(), None, option).value().to_string(), expected);
    }
}

/// dstack-mr as above, whose firmware puts the option behind; the initrd is 70001 times the letter I.
#[test]
fn dstack_mr_agrees_on_rtmr2() {
    let initrd = vec![b'I'; 70_001];
    let log = rtmr2(Cmdline::new("console=ttyS0").unwrap(), Some(&initrd), InitrdOption::After);
    let expected =
        "faad2ba8e10320d8e9e937e4adbc6ab3f74f96eeeacca3c65f1da7db6746f3b57a1167bc08c3d529fd56dee26e404d79";
    assert_eq!(log.value().to_string(), expected);
}
