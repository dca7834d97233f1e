use p256::SecretKey;

use super::sample::Sample;
use super::*;
use crate::protocol::Nonce;

/// GPUs without a machine: what they answer.
struct Fake(fn([u8; 32]) -> Result<Vec<Device>, EvidenceError>);

impl Gpus for Fake {
    fn evidence(&self, nonce: [u8; 32]) -> Result<Vec<Device>, EvidenceError> {
        (self.0)(nonce)
    }

    fn accept_work(&self) -> Result<(), EvidenceError> {
        Ok(())
    }
}

fn device(name: &str, nonce: [u8; 32]) -> Device {
    Device {
        arch: "HOPPER".into(),
        uuid: name.into(),
        evidence: STANDARD.encode(nonce),
        certificate: STANDARD.encode(format!("chain of {name}")),
    }
}

fn attester(gpus: u16, fake: fn([u8; 32]) -> Result<Vec<Device>, EvidenceError>) -> Attester {
    let declared = Declared { gpus, switches: 0 };
    Attester::new(Box::new(Sample), Source::Driver(Arc::new(Fake(fake))), declared)
}

fn runtime() -> RuntimeData {
    let nonce = Nonce::try_from(STANDARD.encode([7; 32])).unwrap();
    RuntimeData::new(nonce, &SecretKey::from_slice(&[9; 32]).unwrap().public_key())
}

fn refused(gpus: u16, fake: fn([u8; 32]) -> Result<Vec<Device>, EvidenceError>) -> String {
    attester(gpus, fake).composite(&runtime()).unwrap_err().to_string()
}

#[test]
fn each_declared_gpu_answers_the_sessions_challenge() {
    let attester = attester(2, |nonce| Ok(vec![device("GPU-1", nonce), device("GPU-2", nonce)]));
    let composite = attester.composite(&runtime()).unwrap();
    let additional: Value = serde_json::from_str(&composite.additional).unwrap();
    let list = additional["nvidia"]["device_evidence_list"].as_array().unwrap();
    let nonce = STANDARD.encode(gpu_nonce(&runtime().device_data()));
    assert_eq!(list.len(), 2);
    assert!(list.iter().all(|device| device["evidence"] == nonce.as_str()), "{list:?}");
    // What the processor signs covers it.
    let report = STANDARD.encode(runtime().report_data(&composite.additional).hash());
    assert_eq!(composite.primary, json!({ "svn": "1", "report_data": report }));
}

#[test]
fn without_gpus_nobody_is_asked() {
    let composite =
        attester(0, |_| Err(EvidenceError::Library("there is none".into()))).composite(&runtime()).unwrap();
    assert_eq!(composite.additional, "");
}

#[test]
fn a_gpu_that_is_declared_and_gave_nothing_is_an_error_and_never_a_shorter_list() {
    assert_eq!(refused(2, |_| Ok(vec![])), "0 GPUs gave evidence, and the pod's initdata declares 2");
    let one_of_two = refused(2, |nonce| Ok(vec![device("GPU-1", nonce)]));
    assert_eq!(one_of_two, "1 GPUs gave evidence, and the pod's initdata declares 2");
    let too_many = refused(1, |nonce| Ok(vec![device("GPU-1", nonce), device("GPU-2", nonce)]));
    assert_eq!(too_many, "2 GPUs gave evidence, and the pod's initdata declares 1");
    let off = refused(1, |_| Err(EvidenceError::Gpu { gpu: "GPU-1".into(), what: "not supported".into() }));
    assert_eq!(off, "GPU GPU-1: not supported");
    assert!(refused(1, |_| Err(EvidenceError::Library("no file".into()))).contains("no file"));
}

#[test]
fn one_gpu_counts_once_whatever_it_is_called() {
    assert_eq!(refused(2, |nonce| Ok(vec![device("GPU-1", nonce); 2])), "GPU GPU-1 gave evidence twice");
    let renamed =
        |nonce| Ok(vec![device("GPU-1", nonce), Device { uuid: "GPU-2".into(), ..device("GPU-1", nonce) }]);
    assert_eq!(refused(2, renamed), "GPU GPU-2 gave evidence twice");
}

#[test]
fn switches_have_nobody_who_asks_them() {
    let declared = Declared { gpus: 8, switches: 4 };
    let attester = Attester::new(Box::new(Sample), Source::Sample, declared);
    let error = attester.composite(&runtime()).unwrap_err().to_string();
    for words in ["4 NVSwitches", "protected PCIe mode", "LS10", "NSCQ"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_sample_device_is_one() {
    let of = |gpus| Attester::new(Box::new(Sample), Source::Sample, Declared { gpus, switches: 0 });
    let report = STANDARD.encode(runtime().device_data().hash());
    let additional = of(1).composite(&runtime()).unwrap().additional;
    assert_eq!(additional, json!({ "sampledevice": { "svn": "2", "report_data": report } }).to_string());
    assert!(of(2).composite(&runtime()).is_err());
}

#[test]
fn the_librarys_absence_is_said() {
    // Machines that build this have no NVIDIA driver; where there is one, there is nothing to see.
    if let Err(error) = nvml::Nvml::new(nvml::Installed::open).evidence([0; 32]) {
        let text = error.to_string();
        assert!(text.contains("GPUs cannot be asked") || text.contains("GPU "), "{text}");
    }
}
