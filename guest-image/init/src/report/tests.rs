use std::fs;
use std::io;

use super::*;

/// The security processor's answer, field by field.
fn snp_message(version: u32, host_data: [u8; 32]) -> Vec<u8> {
    let mut message = vec![0; SNP_MESSAGE];
    message[4..8].copy_from_slice(&1184u32.to_le_bytes());
    let report = &mut message[0x20..];
    report[..4].copy_from_slice(&version.to_le_bytes());
    // What is before and behind it must not be taken for it: measurement, and the ID key's digest.
    report[0x90..0xc0].fill(0x11);
    report[0xc0..0xe0].copy_from_slice(&host_data);
    report[0xe0..0x110].fill(0x22);
    message
}

/// A TDREPORT: REPORTMACSTRUCT, TEE_TCB_INFO, then TDINFO from byte 512.
fn td_report(config: [u8; 48]) -> Vec<u8> {
    let mut report = vec![0; 1024];
    report[0] = 0x81;
    report[512 + 16..512 + 64].fill(0x11);
    report[512 + 64..512 + 112].copy_from_slice(&config);
    report[512 + 112..512 + 160].fill(0x22);
    report
}

fn sysfs(tee: Tee) -> tempfile::TempDir {
    let sys = tempfile::tempdir().unwrap();
    let device = sys.path().join("class/misc").join(tee.device());
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("dev"), "10:126\n").unwrap();
    sys
}

#[test]
fn host_data_is_read_from_its_place() {
    let sys = sysfs(Tee::Snp);
    for version in [2, 3, 5] {
        let claim = of(Tee::Snp, sys.path(), |device| {
            assert_eq!(device.to_string(), "10:126");
            Ok(snp_message(version, [7; 32]))
        });
        assert_eq!(claim.unwrap(), Claim::Snp([7; 32]));
    }
}

#[test]
fn an_answer_that_is_no_report_is_refused() {
    let good = snp_message(2, [7; 32]);
    let changed = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        snp(&message)
    };
    assert_eq!(changed(0, 0x16), Err("its status is not success"));
    assert_eq!(changed(4, 0), Err("its length is another"));
    assert_eq!(changed(0x20, 1), Err("its version is not known"));
    assert_eq!(changed(0x20, 9), Err("its version is not known"));
    assert_eq!(snp(&good[..0x20 + 0xc0 + 31]), Err("it is cut off"));
    assert_eq!(snp(&[]), Err("its status is not success"));
}

#[test]
fn the_kernels_file_is_taken_where_it_is() {
    let sys = sysfs(Tee::Tdx);
    let file = sys.path().join(TDX_FILE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, [9; 48]).unwrap();
    assert_eq!(of(Tee::Tdx, sys.path(), |_| panic!("not asked")).unwrap(), Claim::Tdx([9; 48]));
    fs::write(&file, [9; 47]).unwrap();
    let error = of(Tee::Tdx, sys.path(), |_| panic!("not asked")).unwrap_err();
    assert!(matches!(error, ReportError::Malformed { tee: Tee::Tdx, .. }), "{error}");
}

#[test]
fn mrconfigid_is_read_from_its_place() {
    let sys = sysfs(Tee::Tdx);
    let claim = of(Tee::Tdx, sys.path(), |_| Ok(td_report([7; 48])));
    assert_eq!(claim.unwrap(), Claim::Tdx([7; 48]));
    assert_eq!(tdx(&td_report([7; 48])[..1023]), Err("its length is another"));
    assert_eq!(tdx(&vec![0; 1024]), Err("it is not a TD's"));
}

#[test]
fn a_confidential_vm_without_its_device_is_refused() {
    for tee in [Tee::Snp, Tee::Tdx] {
        let sys = tempfile::tempdir().unwrap();
        let error = of(tee, sys.path(), |_| panic!("not asked")).unwrap_err();
        assert!(matches!(error, ReportError::Device { .. }), "{error}");
        assert!(error.to_string().contains(tee.device()), "{error}");
    }
}

#[test]
fn a_device_that_gives_nothing_is_an_error() {
    let sys = sysfs(Tee::Snp);
    let error = of(Tee::Snp, sys.path(), |_| Err(io::ErrorKind::TimedOut.into())).unwrap_err();
    assert!(matches!(error, ReportError::Read { tee: Tee::Snp, .. }), "{error}");
}

#[test]
fn only_a_field_that_holds_something_claims_something() {
    assert!(!Claim::None.is_set());
    assert!(!Claim::Snp([0; 32]).is_set() && !Claim::Tdx([0; 48]).is_set());
    let mut last = [0; 48];
    last[47] = 1;
    assert!(Claim::Tdx(last).is_set());
    assert!(Claim::Snp([1; 32]).is_set());
}
