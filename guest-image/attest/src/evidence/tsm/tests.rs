//! A directory in place of configfs: its files are what the kernel would show. How the kernel itself answers is for hardware.

use super::*;

/// What the kernel makes of a directory in it: the provider, how often it was written to, a report.
fn kernel(provider: &str, report: &[u8]) -> tempfile::TempDir {
    let reports = tempfile::tempdir().unwrap();
    let entry = reports.path().join("coffer");
    fs::create_dir(&entry).unwrap();
    fs::write(entry.join("provider"), format!("{provider}\n")).unwrap();
    fs::write(entry.join("generation"), "1\n").unwrap();
    fs::write(entry.join("outblob"), report).unwrap();
    reports
}

/// A report of version 3 of the firmware's ABI, with numbers of our own in it.
fn snp_report(data: &[u8; 64]) -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = 3;
    report[8..16].copy_from_slice(&0x30000_u64.to_le_bytes());
    report[0x50..0x90].copy_from_slice(data);
    report[0x90..0xc0].fill(0xab);
    report[0xc0..0xe0].fill(0xcd);
    // Family, model and stepping of a Milan, in a report since version 3.
    report[0x188..0x18b].copy_from_slice(&[0x19, 0x01, 0x01]);
    report[0x1a0..0x1e0].fill(0x77);
    report
}

#[test]
fn snps_report_is_taken_apart_as_the_verifier_reads_it() {
    let data = [5; 64];
    let reports = kernel("sev_guest", &snp_report(&data));
    let evidence = Tsm::new(reports.path(), Kind::Snp).evidence(&data).unwrap();
    let report = &evidence["attestation_report"];
    assert_eq!(report["version"], 3);
    assert_eq!(report["policy"], 0x30000);
    assert_eq!(report["report_data"], json!(data.to_vec()));
    assert_eq!(report["measurement"], json!(vec![0xab; 48]));
    assert_eq!(report["host_data"], json!(vec![0xcd; 32]));
    assert_eq!(report["chip_id"], json!(vec![0x77; 64]));
    assert_eq!(evidence["cert_chain"], Value::Null);
    assert_eq!(fs::read(reports.path().join("coffer/inblob")).unwrap(), data);
}

#[test]
fn tdxs_quote_goes_as_it_is() {
    let reports = kernel("tdx_guest", b"quote");
    let evidence = Tsm::new(reports.path(), Kind::Tdx).evidence(&[0; 64]).unwrap();
    assert_eq!(evidence, json!({ "cc_eventlog": null, "quote": "cXVvdGU=" }));
}

#[test]
fn a_log_of_events_goes_with_the_quote_once_there_is_one() {
    use crate::aael::Event;
    let reports = kernel("tdx_guest", b"quote");
    let ccel = reports.path().join("CCEL");
    fs::write(&ccel, [0; 32]).unwrap();
    let events = EventLog::new(reports.path(), &ccel);
    let tsm = Tsm::new(reports.path(), Kind::Tdx).with_events(events.clone());
    let log = |tsm: &Tsm| tsm.evidence(&[0; 64]).unwrap()["cc_eventlog"].clone();
    assert_eq!(log(&tsm), Value::Null);
    let event = Event::parse(br#"{"domain":"d","operation":"o","content":"c"}"#).unwrap();
    events.add(&event).unwrap();
    let text = STANDARD.decode(log(&tsm).as_str().unwrap()).unwrap();
    assert!(text.starts_with(&[0; 32]) && text.ends_with(b"d o c"));
    // Half of it would be another register's value.
    fs::remove_file(&ccel).unwrap();
    let error = tsm.evidence(&[0; 64]).unwrap_err().to_string();
    assert!(error.contains("the log of runtime events cannot be shown"), "{error}");
}

#[test]
fn a_report_that_is_none_is_said() {
    let refused = |provider: &str, report: &[u8], kind| {
        let reports = kernel(provider, report);
        Tsm::new(reports.path(), kind).evidence(&[5; 64]).unwrap_err().to_string()
    };
    assert!(refused("sev_guest", &[], Kind::Snp).contains("0 bytes"));
    assert!(refused("sev_guest", &[0; 100], Kind::Snp).contains("not usable"));
    assert!(refused("sev_guest", &snp_report(&[6; 64]), Kind::Snp).contains("over other data"));
    assert!(refused("tdx_guest", b"quote", Kind::Snp).contains("tdx_guest"));
    assert!(refused("tdx_guest", &vec![0; LONGEST + 1], Kind::Tdx).contains("bytes"));
    let error = Tsm::new(Path::new("/nowhere"), Kind::Tdx).evidence(&[0; 64]).unwrap_err();
    assert!(error.to_string().contains("/nowhere/coffer"), "{error}");
}
