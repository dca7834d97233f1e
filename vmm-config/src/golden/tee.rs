//! Confidential VMs.

use measurement::Sha384Digest;
use measurement::initdata::{Algorithm, annotation, build};
use measurement::ovmf::{Acceptance, KernelHashSupport, Kind};
use measurement::snp::LaunchDigest;
use measurement::snp::id_block::{IdBlock, IdBlockError, Policy, PrivateKey, SignedIdBlock};
use p384::ecdsa::SigningKey;
use p384::pkcs8::{EncodePrivateKey as _, LineEnding};

use super::*;
use crate::config::Tee;
use crate::deadline::{BootDeadlines, Ground};
use crate::image::ImageManifest;
use crate::image::tests::manifest;
use crate::plan::PlanError;
use crate::plan::tests::nic;
use crate::request::{OciLimits, PodRequest};
use crate::spec::{FdRole, VmSpec};
use crate::tee::{HostTee, SevAddressing, TeeError};

/// As the build of a release image writes it: no console.
fn release() -> ImageManifest {
    let mut json = manifest();
    json["profile"] = "release".into();
    json["cmdline"] = json["cmdline"].as_str().unwrap().replace("console=ttyS0 ", "console=null ").into();
    ImageManifest::parse(json.to_string().as_bytes()).unwrap()
}

fn config(tee: Tee) -> NodeConfig {
    let name = match tee {
        Tee::Snp => "OVMF.amdsev.fd",
        _ => "OVMF.inteltdx.fd",
    };
    let firmware = AbsolutePath::new(&format!("/opt/coffer/share/{name}")).unwrap();
    NodeConfig { tee, firmware: Some(firmware), ..NodeConfig::default() }
}

/// A host of that kind, with a firmware of that kind.
fn host(tee: Tee, passthrough: HostDevices) -> HostFacts {
    // C bit 51, addresses one bit shorter: EPYC 7003 and later.
    let addressing = SevAddressing::from_cpuid(0x0000_0073).unwrap();
    let (tee, firmware) = match tee {
        Tee::Snp => (HostTee::Snp(addressing), Kind::Snp(KernelHashSupport::Present)),
        _ => (HostTee::Tdx, Kind::Tdx),
    };
    HostFacts { tee, firmware: Some(firmware), passthrough, ..vhost(vec![nic(2, true)]) }
}

fn with_initdata() -> PodRequest {
    let data = [("aa.toml".to_owned(), "[token_configs]\n".to_owned())].into();
    let text = annotation::encode(&build(Algorithm::Sha384, data).unwrap()).unwrap();
    PodRequest::new(
        &NodeConfig::default(),
        "pod-1",
        [(annotation::NAME, text.as_str())],
        OciLimits::default(),
    )
    .unwrap()
}

fn spec(config: &NodeConfig, request: &PodRequest, host: &HostFacts) -> Result<VmSpec, PlanError> {
    plan(config, &release(), request, host)
}

fn line(tee: Tee, vcpus: i64, devices: HostDevices) -> String {
    written(&spec(&config(tee), &request(vcpus), &host(tee, devices)).unwrap())
}

fn line_with_initdata(tee: Tee) -> String {
    written(&spec(&config(tee), &with_initdata(), &host(tee, HostDevices::default())).unwrap())
}

fn written(spec: &VmSpec) -> String {
    spec.qemu_args().join(" ").replace(" -", "\n-")
}

#[test]
fn tdx() {
    insta::assert_snapshot!(line(Tee::Tdx, 2, HostDevices::default()));
}

#[test]
fn tdx_with_one_h100() {
    insta::assert_snapshot!(line(Tee::Tdx, 4, devices(&Board::h100(1))));
}

#[test]
fn tdx_with_eight_b200() {
    insta::assert_snapshot!(line(Tee::Tdx, 16, devices(&Board::b200(8))));
}

#[test]
fn snp() {
    insta::assert_snapshot!(line(Tee::Snp, 2, HostDevices::default()));
}

#[test]
fn snp_with_one_h100() {
    insta::assert_snapshot!(line(Tee::Snp, 4, devices(&Board::h100(1))));
}

#[test]
fn snp_with_eight_h100_and_four_switches() {
    let board = Board { switches: 4, ..Board::h100(8) };
    insta::assert_snapshot!(line(Tee::Snp, 16, devices(&board)));
}

#[test]
fn tdx_with_initdata() {
    insta::assert_snapshot!(line_with_initdata(Tee::Tdx));
}

#[test]
fn tdx_with_quotes_over_vsock() {
    let quotes = crate::config::QuoteAddress::Vsock { cid: 2, port: 4050 };
    let config = NodeConfig { quote_service: crate::config::QuoteService::At(quotes), ..config(Tee::Tdx) };
    let host = host(Tee::Tdx, HostDevices::default());
    insta::assert_snapshot!(written(&spec(&config, &request(2), &host).unwrap()));
}

#[test]
fn snp_with_initdata() {
    insta::assert_snapshot!(line_with_initdata(Tee::Snp));
}

#[test]
fn snp_with_id_block() {
    let digest = LaunchDigest::from_digest(Sha384Digest::of(b"guest"));
    let signed = sign(digest, Policy::DEFAULT);
    let spec = spec(&config(Tee::Snp), &with_initdata(), &host(Tee::Snp, HostDevices::default())).unwrap();
    let spec = spec.with_id_block(&signed.block().encode(), signed.auth(), digest).unwrap();
    insta::assert_snapshot!(written(&spec));
}

/// An ID block signed with a key that is everybody's.
fn sign(launch_digest: LaunchDigest, policy: Policy) -> SignedIdBlock {
    let pem = SigningKey::from_slice(&[7; 48]).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
    let key = PrivateKey::from_pem(&pem).unwrap();
    let block = IdBlock { launch_digest, family_id: [0; 16], image_id: [0; 16], guest_svn: 0, policy };
    block.sign(&key, &key).unwrap()
}

#[test]
fn initdata_is_a_disk_and_a_field_of_the_report() {
    let line = |tee| {
        let spec = spec(&config(tee), &with_initdata(), &host(tee, HostDevices::default())).unwrap();
        spec.qemu_args().join("\n")
    };
    let (tdx, snp) = (line(Tee::Tdx), line(Tee::Snp));
    let disk = "file,node-name=initdata,filename=initdata.img,read-only=on";
    for line in [&tdx, &snp] {
        assert!(line.contains(disk) && line.contains("serial=coffer-initdata"), "{line}");
        // One only: the guest could not tell which of two is the measured one.
        assert_eq!(line.matches("initdata.img").count(), 1, "{line}");
    }
    let document = with_initdata().initdata.unwrap();
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    assert!(
        tdx.contains(&format!("\"mrconfigid\":{:?}", base64(document.mr_config_id().as_bytes()))),
        "{tdx}"
    );
    assert!(snp.contains(&format!("host-data={}", base64(document.host_data().as_bytes()))), "{snp}");
    // A plain VM gets the disk too, for development.
    let plain = plan(&NodeConfig::default(), &image(), &with_initdata(), &vhost(vec![])).unwrap();
    assert!(plain.qemu_args().join("\n").contains(disk));
}

#[test]
fn nothing_of_the_host_reaches_into_a_confidential_vm() {
    for tee in [Tee::Tdx, Tee::Snp] {
        let spec = spec(&config(tee), &request(2), &host(tee, devices(&Board::h100(1)))).unwrap();
        let line = spec.qemu_args().join("\n");
        for word in ["virtio-rng", "isa-serial", "console=ttyS", "tcg", "share=on", "hotplug=on"] {
            assert!(!line.contains(word), "{word} in\n{line}");
        }
        for word in ["smm=off", "-no-reboot", "kernel-irqchip=split", "-bios", "pmu=off", "host-phys-bits=on"]
        {
            assert!(line.contains(word), "{word} not in\n{line}");
        }
        assert!(!spec.fds().iter().any(|(_, role)| *role == FdRole::Console));
    }
}

/// `expectation` counts on it: each of these would add a SEV feature, and so change the launch digest.
#[test]
fn no_snp_guest_asks_for_more_features_than_snp() {
    let line = line(Tee::Snp, 2, devices(&Board::h100(1)));
    for word in ["debug-swap", "secure-tsc", "tsc-frequency", "igvm"] {
        assert!(!line.contains(word), "{word} in\n{line}");
    }
}

#[test]
fn an_image_that_believes_any_report_starts_no_confidential_vm() {
    let image = ImageManifest { fake_report: true, ..release() };
    for tee in [Tee::Tdx, Tee::Snp] {
        let config = NodeConfig { allow_debug_image: true, ..config(tee) };
        let host = host(tee, HostDevices::default());
        let refused = plan(&config, &image, &request(1), &host).unwrap_err().to_string();
        assert!(refused.contains("is for tests"), "{refused}");
        assert!(plan(&config, &release(), &request(1), &host).is_ok());
    }
}

#[test]
fn an_image_with_a_console_needs_leave_and_says_so_in_the_measured_line() {
    for tee in [Tee::Tdx, Tee::Snp] {
        let host = host(tee, HostDevices::default());
        let refused = plan(&config(tee), &image(), &request(1), &host).unwrap_err().to_string();
        assert!(refused.contains("coffer-guest-dev") && refused.contains("allow_debug_image"), "{refused}");
        let config = NodeConfig { allow_debug_image: true, ..config(tee) };
        let line = plan(&config, &image(), &request(1), &host).unwrap().qemu_args().join("\n");
        assert!(line.contains("isa-serial") && line.contains("console=ttyS0"), "{line}");
    }
}

fn refused(config: &NodeConfig, host: &HostFacts) -> TeeError {
    match spec(config, &request(1), host) {
        Err(PlanError::Tee(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_host_lacks_is_no_reason_for_a_plain_vm() {
    for tee in [Tee::Tdx, Tee::Snp, Tee::Auto] {
        let absent = HostFacts {
            tee: HostTee::Absent { reason: "kvm_amd.sev_snp is N".into() },
            ..host(tee, HostDevices::default())
        };
        let text = refused(&config(tee), &absent).to_string();
        assert!(text.contains("kvm_amd.sev_snp is N") && text.contains(tee.name()), "{text}");
    }
    let other = refused(&config(Tee::Tdx), &host(Tee::Snp, HostDevices::default())).to_string();
    assert!(other.contains("\"tdx\"") && other.contains("offers SEV-SNP"), "{other}");
    let auto = spec(&config(Tee::Auto), &request(1), &host(Tee::Tdx, HostDevices::default())).unwrap();
    assert!(matches!(auto.confidential(), Some(crate::qemu::ConfidentialGuest::Tdx(_))));
}

#[test]
fn the_wrong_firmware_is_refused() {
    let wrong = [
        (Tee::Tdx, Kind::Plain),
        (Tee::Tdx, Kind::Snp(KernelHashSupport::Present)),
        (Tee::Tdx, Kind::TdxSecureBoot),
        (Tee::Snp, Kind::TdxSecureBoot),
        (Tee::Snp, Kind::Plain),
        (Tee::Snp, Kind::Tdx),
        (Tee::Snp, Kind::Snp(KernelHashSupport::Absent)),
        (Tee::Snp, Kind::SnpAndTdx(KernelHashSupport::Absent)),
    ];
    for (tee, kind) in wrong {
        let host = HostFacts { firmware: Some(kind), ..host(tee, HostDevices::default()) };
        assert!(matches!(refused(&config(tee), &host), TeeError::Firmware { .. }), "{tee:?} {kind:?}");
    }
    let none = HostFacts { firmware: None, ..host(Tee::Tdx, HostDevices::default()) };
    assert_eq!(refused(&config(Tee::Tdx), &none), TeeError::NoFirmware("tdx"));
}

#[test]
fn emulation_and_shared_memory_are_refused() {
    let tcg = NodeConfig { accel: AutoOr::Is(Accelerator::Tcg), ..config(Tee::Snp) };
    assert_eq!(refused(&tcg, &host(Tee::Snp, HostDevices::default())), TeeError::NeedsKvm("snp"));
    let shared = HostFacts { vsock: vhost_user(vec![]).vsock, ..host(Tee::Snp, HostDevices::default()) };
    assert_eq!(refused(&config(Tee::Snp), &shared), TeeError::VhostUser("snp"));
}

#[test]
fn a_domain_without_quotes_is_asked_for_by_name() {
    let config = NodeConfig { quote_service: crate::config::QuoteService::None, ..config(Tee::Tdx) };
    let line =
        spec(&config, &request(1), &host(Tee::Tdx, HostDevices::default())).unwrap().qemu_args().join("\n");
    assert!(!line.contains("quote-generation-socket"), "{line}");
}

#[test]
fn a_guest_that_cannot_show_life_has_the_whole_time() {
    let silent = spec(&config(Tee::Snp), &request(2), &host(Tee::Snp, HostDevices::default())).unwrap();
    let limits = BootDeadlines::of(&silent, Ground::Hardware);
    assert_eq!(limits.stall, limits.total);
    let talking = plan(&NodeConfig::default(), &image(), &request(2), &vhost(vec![])).unwrap();
    let limits = BootDeadlines::of(&talking, Ground::Hardware);
    assert!(limits.stall < limits.total);
}

/// A plain VM has no memory to accept, whatever its firmware would do.
#[test]
fn a_firmware_that_accepts_all_memory_gives_a_confidential_vm_more_time() {
    let with = |tee, acceptance| {
        let host = HostFacts { acceptance, ..host(Tee::Snp, HostDevices::default()) };
        BootDeadlines::of(&spec(&config(tee), &request(2), &host).unwrap(), Ground::Hardware)
    };
    assert!(with(Tee::Snp, Acceptance::Eager).total > with(Tee::Snp, Acceptance::Lazy).total);
    assert_eq!(with(Tee::None, Acceptance::Eager), with(Tee::None, Acceptance::Lazy));
}

#[test]
fn an_id_block_is_for_one_digest_and_one_policy() {
    let digest = LaunchDigest::from_digest(Sha384Digest::of(b"guest"));
    let other = LaunchDigest::from_digest(Sha384Digest::of(b"another guest"));
    let give = |signed: &SignedIdBlock| {
        let spec = spec(&config(Tee::Snp), &request(1), &host(Tee::Snp, HostDevices::default())).unwrap();
        spec.with_id_block(&signed.block().encode(), signed.auth(), digest)
    };
    let line = give(&sign(digest, Policy::DEFAULT)).unwrap().qemu_args().join("\n");
    assert!(
        line.contains("id-block=") && line.contains("id-auth=") && line.contains("author-key-enabled=on")
    );
    assert!(matches!(give(&sign(other, Policy::DEFAULT)), Err(IdBlockError::Digest { .. })));
    let strict = Policy::new(0x2_0000).unwrap();
    assert_eq!(
        give(&sign(digest, strict)).unwrap_err(),
        IdBlockError::OtherPolicy { block: 0x2_0000, guest: 0x3_0000 }
    );
}

#[test]
fn addressing_that_no_processor_has_is_none() {
    assert_eq!(SevAddressing::from_cpuid(0x0000_016f).map(|a| (a.c_bit(), a.lost_bits())), Some((47, 5)));
    assert_eq!(SevAddressing::from_cpuid(0), None);
    assert_eq!(SevAddressing::from_cpuid(51), None);
}
