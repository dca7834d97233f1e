//! GPUs by NVIDIA's driver: its library NVML, from the measured image.

use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nvml_wrapper::Nvml as Library;
use nvml_wrapper::enums::device::DeviceArchitecture;
use nvml_wrapper::error::NvmlError;

use super::{Device, EvidenceError, Gpus};

/// The library, loaded anew for each question: questions are rare, and the library keeps memory.
#[derive(Debug, Clone, Copy)]
pub struct Nvml;

impl Gpus for Nvml {
    fn evidence(&self, nonce: [u8; 32]) -> Result<Vec<Device>, EvidenceError> {
        let library = Library::init().map_err(|error| EvidenceError::Library(error.to_string()))?;
        let count = library.device_count().map_err(|error| EvidenceError::Library(error.to_string()))?;
        // Each GPU signs by itself, all at once.
        thread::scope(|scope| {
            let asked: Vec<_> = (0..count)
                .map(|index| {
                    scope.spawn({
                        let library = &library;
                        move || device(library, index, nonce)
                    })
                })
                .collect();
            let answer = |(index, thread): (usize, thread::ScopedJoinHandle<'_, _>)| {
                let panicked =
                    |_| EvidenceError::Gpu { gpu: index.to_string(), what: "asking it failed".to_owned() };
                thread.join().map_err(panicked)?
            };
            asked.into_iter().enumerate().map(answer).collect()
        })
    }
}

fn device(library: &Library, index: u32, nonce: [u8; 32]) -> Result<Device, EvidenceError> {
    let by_index = |error: NvmlError| EvidenceError::Gpu { gpu: index.to_string(), what: error.to_string() };
    let device = library.device_by_index(index).map_err(by_index)?;
    let uuid = device.uuid().map_err(by_index)?;
    let named = |what: String| EvidenceError::Gpu { gpu: uuid.clone(), what };
    let failed = |error: NvmlError| named(error.to_string());
    let arch = match device.architecture().map_err(failed)? {
        DeviceArchitecture::Hopper => "HOPPER",
        DeviceArchitecture::Blackwell => "BLACKWELL",
        other => return Err(named(format!("its architecture {other:?} signs no reports"))),
    };
    let report =
        device.confidential_compute_gpu_attestation_report(nonce).map_err(failed)?.attestation_report;
    let chain = device.confidential_compute_gpu_certificate().map_err(failed)?.attestation_cert_chain;
    if report.is_empty() || chain.is_empty() {
        return Err(named("its report or its chain of certificates is empty".to_owned()));
    }
    let (evidence, certificate) = (STANDARD.encode(report), STANDARD.encode(chain));
    Ok(Device { arch: arch.to_owned(), uuid, evidence, certificate })
}
