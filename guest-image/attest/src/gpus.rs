//! The GPUs of this guest: by the driver's library, or in an image for tests by what plays it.

use std::sync::Arc;

#[cfg(not(feature = "fake-gpus"))]
use crate::evidence::nvml::Installed as Driver;
use crate::evidence::nvml::Nvml;
use crate::evidence::{EvidenceError, Gpus, Source};
#[cfg(feature = "fake-gpus")]
use crate::fake_nvml::FakeNvml as Driver;

fn nvml() -> Nvml<fn() -> Result<Driver, String>> {
    Nvml::new(Driver::open)
}

/// What the driver has, a line each.
///
/// # Errors
///
/// [`EvidenceError`].
pub fn list() -> Result<Vec<String>, EvidenceError> {
    nvml().list()
}

/// Where evidence of GPUs comes from in a VM of this kind: a VM without confidential computing has none, but in an image for
/// tests.
pub fn source(is_confidential: bool) -> Source {
    if is_confidential || cfg!(feature = "fake-gpus") {
        let driver: Arc<dyn Gpus> = Arc::new(nvml());
        Source::Driver(driver)
    } else {
        Source::Sample
    }
}
