//! Modes, resets, the end of a quarantine.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use gpu::claim::{Claim, Quarantined};
use gpu::owner::{CC_MANAGER_READY, Ownership, ownership};
use gpu::quarantine::Quarantine;
use gpu::sysfs::Function;
use gpu::{Mode, ModePolicy, set};
use shared_types::one_line;

use super::Host;
use super::claim::claim;
use super::progress::shown;

/// Sets a mode: writes all, resets all, verifies all.
pub(super) async fn mode(
    host: &Host,
    functions: &[Function],
    mode: Mode,
    out: &mut impl Write,
) -> Result<()> {
    let ready = host.root.join(Path::new(CC_MANAGER_READY).strip_prefix("/")?);
    // Who runs this command has decided to manage; only NVIDIA's cc-manager stands above that.
    ensure!(
        ownership(ModePolicy::Manage, &ready) == Ownership::Manage,
        "NVIDIA's cc-manager owns the mode of this node's GPUs ({} is there); set the node's label \
         nvidia.com/cc.mode instead",
        ready.display()
    );
    let switched = shown(async |progress| {
        let (held, gpus) = claim(host, functions, Quarantined::Refuse, progress).await?;
        let lost = |error| lost(&held, error);
        let done = async {
            let booted = match set::boot(gpus).await {
                // Their settings are about to be written: it does not matter which ones this reset makes active.
                Err(hung) if hung.may_end_by_reset() => match held.open(progress, host).await {
                    Ok(gpus) => set::reset(gpus).await,
                    Err(error) => {
                        return Err(lost(hung).context(format!("no reset is possible ({error:#})")));
                    }
                },
                booted => booted,
            };
            set::switch(booted.map_err(lost)?, mode).await.map_err(lost)
        };
        done.await.context("setting the mode failed; `coffer gpu list` shows where each GPU stands")
    });
    for gpu in switched.await? {
        writeln!(out, "{} {}", gpu.address(), gpu.mode())?;
    }
    Ok(())
}

/// Resets and waits for boot and wiped memory.
pub(super) async fn reset(host: &Host, functions: &[Function], out: &mut impl Write) -> Result<()> {
    clean(host, functions, Quarantined::Refuse).await?;
    for function in functions {
        writeln!(out, "{} reset", function.address)?;
    }
    Ok(())
}

/// Ends quarantines, of those only that come back from a reset.
pub(super) async fn release(host: &Host, functions: &[Function], out: &mut impl Write) -> Result<()> {
    let quarantine = Quarantine::new(&host.state());
    let mut failed = Vec::new();
    for function in functions {
        let gpu = function.address;
        if quarantine.of(gpu).is_ok_and(|entry| entry.is_none()) {
            writeln!(out, "{gpu} is not in quarantine")?;
            continue;
        }
        match clean(host, std::slice::from_ref(function), Quarantined::Allow).await {
            Ok(()) => {
                quarantine.release(gpu)?;
                writeln!(out, "{gpu} released")?;
            }
            Err(error) => failed.push(format!("{gpu} stays in quarantine: {error:#}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// Puts GPUs that did not come back into quarantine.
fn lost(claim: &Claim, error: set::Error) -> anyhow::Error {
    let set::Error::Devices { failures, pending } = &error else { return error.into() };
    let unrecorded = claim.lost(failures, pending).unrecorded;
    let unrecorded: Vec<_> = unrecorded.iter().map(|error| one_line(error)).collect();
    let error = anyhow::Error::new(error);
    if unrecorded.is_empty() { error } else { error.context(unrecorded.join("; ")) }
}

async fn clean(host: &Host, functions: &[Function], quarantined: Quarantined) -> Result<()> {
    shown(async |progress| {
        let (held, gpus) = claim(host, functions, quarantined, progress).await?;
        for mut gpu in set::reset(gpus).await.map_err(|error| lost(&held, error))? {
            let unclean = |failure| set::Error::Devices { failures: vec![failure], pending: vec![] };
            gpu.scrubbed().await.map_err(|failure| lost(&held, unclean(failure)))?;
        }
        Ok(())
    })
    .await
}
