//! vfio-pci on and off, through the kernel's `driver_override`.
//!
//! Files: `Documentation/ABI/testing/sysfs-bus-pci` of the Linux kernel.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use gpu::open::is_vfio;
use gpu::sysfs::Function;

use super::Host;
use super::claim::locks;

/// Binds functions that no driver has.
pub(super) async fn bind(host: &Host, functions: &[Function], out: &mut impl Write) -> Result<()> {
    let _locks = locks(host, functions).await?;
    for function in functions {
        let gpu = function.address;
        match function.driver.as_deref() {
            Some(driver) if is_vfio(driver) => {
                writeln!(out, "{gpu} is bound to {driver} already")?;
                continue;
            }
            Some(driver) => {
                bail!(
                    "GPU {gpu} is in use by driver {driver}; unload it (modprobe -r {driver}), then bind again"
                )
            }
            None => {}
        }
        let override_file = function.path.join("driver_override");
        write(&override_file, "vfio-pci")?;
        let probed = write(&host.root.join("sys/bus/pci/drivers_probe"), &gpu.to_string());
        let found = host.sysfs().function(gpu);
        let bound = found.as_ref().ok().and_then(|function| function.as_ref()?.driver.as_deref());
        if bound != Some("vfio-pci") {
            // An override that did not work must not surprise somebody later.
            write(&override_file, "\n")?;
            probed?;
            found?;
            bail!(
                "GPU {gpu}: the kernel did not bind vfio-pci; load the module (modprobe vfio-pci) and try again"
            );
        }
        writeln!(out, "{gpu} bound to vfio-pci")?;
    }
    Ok(())
}

/// Takes functions from vfio-pci and the override away.
pub(super) async fn unbind(host: &Host, functions: &[Function], out: &mut impl Write) -> Result<()> {
    let _locks = locks(host, functions).await?;
    for function in functions {
        let gpu = function.address;
        match function.driver.as_deref() {
            Some(driver) if is_vfio(driver) => {
                write(&function.path.join("driver/unbind"), &gpu.to_string())?;
                write(&function.path.join("driver_override"), "\n")?;
                writeln!(out, "{gpu} unbound from {driver}")?;
            }
            Some(driver) => bail!("GPU {gpu} is bound to driver {driver}, not to vfio-pci"),
            None => writeln!(out, "{gpu} is bound to nothing already")?,
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
