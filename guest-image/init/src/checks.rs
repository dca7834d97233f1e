//! The checks before anything is believed, in the order in which each can rely on those before it.

use std::path::{Path, PathBuf};

use model_volumes::Volumes;

use crate::attestation::{self, Order};
use crate::components;
use crate::inventory::Found;
use crate::private::Private;
use crate::profile::Profile;
use crate::{cmdline, gpu, initdata, inventory, profile, report, scratch, tee};

/// What the host brought and may not bring, or did not bring.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The image does not say what it is.
    #[error(transparent)]
    Profile(#[from] profile::ProfileError),
    /// The kernel's command line.
    #[error(transparent)]
    Cmdline(#[from] cmdline::ReadError),
    /// A device.
    #[error(transparent)]
    Inventory(#[from] inventory::InventoryError),
    /// The hardware's report.
    #[error(transparent)]
    Report(#[from] report::ReportError),
    /// A test's report.
    #[cfg(feature = "fake-report")]
    #[error(transparent)]
    FakeReport(#[from] crate::fake_report::FakeReportError),
    /// The initdata.
    #[error(transparent)]
    Initdata(#[from] initdata::InitdataError),
    /// The scratch disk.
    #[error(transparent)]
    Scratch(#[from] scratch::ScratchError),
}

/// What the rest of the boot needs to know.
#[derive(Debug)]
pub struct Checked {
    /// NVIDIA's devices that are there.
    pub gpus: Found,
    /// What is to become of them, where they are declared.
    pub bring_up: Option<gpu::Order>,
    /// The agent's policy, where the pod brought one.
    pub policy: Option<PathBuf>,
    /// The attestation service, where the pod named a key broker.
    pub attestation: Option<Order>,
    /// What the guest components are started for, in an image that has them.
    pub components: components::Order,
    /// The pod's model volumes.
    pub volumes: Volumes,
    /// The scratch disk.
    pub scratch: Option<scratch::Disk>,
}

/// Makes all checks, and puts the checked texts below `root`.
///
/// # Errors
///
/// [`CheckError`] for the first thing that is not as it must be.
pub fn run(private: &Private, root: &Path) -> Result<Checked, CheckError> {
    let sys = root.join("sys");
    let profile = profile::read(root)?;
    cmdline::check(root, profile)?;
    let found = inventory::pci(&sys, profile)?;
    let disks = inventory::disks(&sys)?;
    #[cfg(not(feature = "fake-report"))]
    let claim = report::read(private, &sys)?;
    #[cfg(feature = "fake-report")]
    let claim = crate::fake_report::read(private, disks.fake_report)?;
    let document = disks.initdata.map(|disk| initdata::read(private, disk)).transpose()?;
    initdata::check(document.as_ref(), &claim, profile)?;
    // Both kinds at once were refused with the report.
    let tee = tee::detect(&sys).ok().flatten();
    let Some(document) = document else {
        // Nobody declared anything: a VM without initdata is no confidential one.
        return Ok(Checked {
            gpus: found,
            bring_up: None,
            policy: None,
            attestation: None,
            components: components::Order { tee, ..components::Order::default() },
            volumes: Volumes::default(),
            scratch: scratch::decide(disks.scratch, None)?,
        });
    };
    let declaration = initdata::declared(&document)?;
    inventory::gpus(found.count(), declaration.devices())?;
    let scratch = scratch::decide(disks.scratch, Some(declaration.scratch_mib))?;
    let volumes = initdata::volumes(&document)?;
    initdata::write(root, &document)?;
    let policy = root.join(initdata::POLICY_PATH);
    let attestation = attestation::order(&document, tee, &declaration);
    if volumes.need_keys() && attestation.is_none() {
        return Err(initdata::InitdataError::NoBroker.into());
    }
    let components = components::Order { tee, initdata: true, tokens: declaration.token_key };
    let bring_up = gpu::Order {
        model: declaration.gpu_model,
        has_broker: attestation.is_some(),
        may_lack_driver: profile == Profile::Dev,
    };
    let policy = policy.exists().then_some(policy);
    Ok(Checked { gpus: found, bring_up: Some(bring_up), policy, attestation, components, volumes, scratch })
}
