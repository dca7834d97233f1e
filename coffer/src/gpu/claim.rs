//! A GPU in the operator's hands: locked, awake, open.

use std::path::Path;
#[cfg(feature = "vfio-user")]
use std::time::Duration;

#[cfg(feature = "vfio-user")]
use anyhow::Context;
use anyhow::Result;
#[cfg(not(feature = "vfio-user"))]
use anyhow::bail;
use gpu::claim::{Claim, Quarantined, Way};
use gpu::registers::Registers;
use gpu::sysfs::Function;
use gpu::{Attached, Gpu, Progress, open};

use super::Host;

/// How the operator's command calls itself to those who want a GPU that it has.
fn holder() -> String {
    format!("coffer gpu (pid {})", std::process::id())
}

/// Locks all, for something that needs no way to their registers.
pub(super) async fn locks(host: &Host, functions: &[Function]) -> Result<Claim> {
    Ok(Claim::lock(&host.state(), functions.to_vec(), &holder(), Quarantined::Allow).await?)
}

/// Locks all, then opens all, whether or not their firmware runs.
pub(super) async fn claim(
    host: &Host,
    functions: &[Function],
    quarantined: Quarantined,
    progress: &Progress,
) -> Result<(Claim, Vec<Gpu<Attached>>)> {
    let mut claim = Claim::lock(&host.state(), functions.to_vec(), &holder(), quarantined).await?;
    // Written down nowhere: if this process is killed, nobody puts the settings back.
    claim.plan()?;
    claim.wake().await?;
    let gpus = claim.open(progress, host).await?;
    Ok((claim, gpus))
}

impl Way for Host {
    type Error = anyhow::Error;

    async fn registers(&self, function: &Function) -> Result<Box<dyn Registers>> {
        if let Some(driver) = function.driver.as_deref().filter(|driver| !open::is_vfio(driver)) {
            // Also for one that is played: the rule is the same.
            return Err(open::Error::Driver { gpu: function.address, driver: driver.to_owned() }.into());
        }
        Ok(match self.socket(function.address) {
            Some(socket) => played(&socket).await?,
            None => open::open(function, &self.root.join("dev")).await?,
        })
    }
}

#[cfg(feature = "vfio-user")]
async fn played(socket: &Path) -> Result<Box<dyn Registers>> {
    let limit = Duration::from_secs(5);
    let connected = gpu::registers::VfioUser::connect(socket, limit).await;
    Ok(Box::new(connected.with_context(|| format!("cannot reach the emulated GPU at {}", socket.display()))?))
}

#[cfg(not(feature = "vfio-user"))]
async fn played(socket: &Path) -> Result<Box<dyn Registers>> {
    bail!("{} is only for rigs", socket.display())
}
