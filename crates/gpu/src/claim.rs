//! Taking GPUs from whoever else might use them: one way, for a pod and for the operator's command.
//!
//! ```text
//! lock (all or none, none in quarantine) ─► plan ─► wake ─► open ─► Gpu, which holds its lock until it is dropped
//! ```

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};

use crate::lock::GpuLock;
use crate::power::{Awake, PowerPlan, PowerRecord};
use crate::quarantine::{Entry, Quarantine};
use crate::registers::{Registers, ResetKind};
use crate::sysfs::Function;
use crate::{Attached, Failure, Gpu, PciAddress, Phase, Progress, lock, power, quarantine};

/// Why GPUs are not ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has one.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// One did not come back some time ago.
    #[error(
        "GPU {gpu} is in quarantine since {} had it: {}; look into it, then `coffer gpu release {gpu}`",
        .entry.sandbox, .entry.reason
    )]
    Quarantined {
        /// The GPU.
        gpu: PciAddress,
        /// Who had it, and what happened.
        entry: Entry,
    },
    /// A quarantine's record.
    #[error(transparent)]
    Record(#[from] quarantine::Error),
}

/// Whether GPUs in quarantine may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quarantined {
    /// Nobody who uses them may.
    Refuse,
    /// An operator, to let them out.
    Allow,
}

/// The way to registers: the host's device nodes, or what plays the devices.
pub trait Way: Sync {
    /// Why there is none.
    type Error: From<Failure> + Send;

    /// Opens the registers of a device.
    fn registers(
        &self,
        function: &Function,
    ) -> impl Future<Output = Result<Box<dyn Registers>, Self::Error>> + Send;
}

/// GPUs and NVSwitches that are this process's. Dropping it puts their power settings back and frees them, except those
/// that are still open.
#[derive(Debug)]
pub struct Claim {
    // Fields are dropped in order: settings are put back while the devices are still ours.
    awake: Vec<Awake>,
    locks: Vec<Arc<GpuLock>>,
    power: Vec<PowerPlan>,
    functions: Vec<Function>,
    state: PathBuf,
    holder: String,
}

/// What a failure means for the GPUs of a claim.
#[derive(Debug, Default)]
pub struct Lost {
    /// They did not come back; they are in quarantine now.
    pub quarantined: Vec<(PciAddress, Entry)>,
    /// Why others of them could not be recorded: they stay locked for as long as this process lives.
    pub unrecorded: Vec<quarantine::Error>,
    /// They have yet to show whether they come back: something that is no refusal went wrong with one of the set, or
    /// settings were written.
    pub unclean: Vec<PciAddress>,
}

impl Claim {
    /// Locks all for `holder`, or none; `state` is the folder of locks and quarantine records.
    ///
    /// # Errors
    /// [`lock::Error::Held`] with the holder's name; [`Error::Quarantined`].
    pub async fn lock(
        state: &Path,
        functions: Vec<Function>,
        holder: &str,
        quarantined: Quarantined,
    ) -> Result<Self, Error> {
        let mut locks = Vec::new();
        for function in &functions {
            locks.push(Arc::new(GpuLock::take(state, function.address, holder).await?));
        }
        if quarantined == Quarantined::Refuse {
            let quarantine = Quarantine::new(state);
            for function in &functions {
                if let Some(entry) = quarantine.of(function.address)? {
                    return Err(Error::Quarantined { gpu: function.address, entry });
                }
            }
        }
        let (state, holder) = (state.to_owned(), holder.to_owned());
        Ok(Self { awake: Vec::new(), locks, power: Vec::new(), functions, state, holder })
    }

    /// Which settings are to be changed so that all stay awake: what to write down before [`Self::wake`]. Those of one that
    /// had a GPU before are put back by now, as that is done under its lock.
    ///
    /// # Errors
    /// [`power::Error::File`].
    pub fn plan(&mut self) -> Result<Vec<PowerRecord>, power::Error> {
        let plans = self.functions.iter().map(|function| PowerPlan::new(function.address, &function.path));
        self.power = plans.collect::<Result<_, _>>()?;
        Ok(self.power.iter().map(|plan| plan.record().clone()).collect())
    }

    /// Wakes all that are planned, and keeps them awake.
    ///
    /// # Errors
    /// [`power::Error`]; none is kept awake then.
    pub async fn wake(&mut self) -> Result<(), power::Error> {
        self.awake = try_join_all(mem::take(&mut self.power).into_iter().map(PowerPlan::claim)).await?;
        Ok(())
    }

    /// Opens all at once, whether or not their firmware runs. Each either is open or has failed when this ends.
    ///
    /// # Errors
    /// The first that cannot be opened; all are closed then.
    pub async fn open<W: Way>(&self, progress: &Progress, way: &W) -> Result<Vec<Gpu<Attached>>, W::Error> {
        let opening = self.functions.iter().zip(&self.locks);
        let opening = opening.map(|(function, lock)| async move {
            let registers = way.registers(function).await?;
            attach(lock, function, registers, progress).await.map_err(W::Error::from)
        });
        join_all(opening).await.into_iter().collect()
    }

    /// What they are, in the order of the claim.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Their locks, in the same order.
    #[must_use]
    pub fn locks(&self) -> &[Arc<GpuLock>] {
        &self.locks
    }

    /// Puts those into quarantine that did not come back: they are not for the next one either.
    #[must_use]
    pub fn lost(&self, failures: &[Failure], pending: &[PciAddress]) -> Lost {
        let back = [Phase::Reset, Phase::Boot, Phase::Firewall, Phase::Open, Phase::Scrub];
        let (gone, others): (Vec<_>, Vec<_>) =
            failures.iter().partition(|failure| back.contains(&failure.phase) && !failure.cause.is_refusal());
        let mut lost = Lost::default();
        for failure in &gone {
            let entry = Entry::now(*failure, &self.holder);
            match Quarantine::new(&self.state).put(failure.gpu, &entry) {
                Ok(()) => lost.quarantined.push((failure.gpu, entry)),
                Err(error) => {
                    self.keep_locked(failure.gpu);
                    lost.unrecorded.push(error);
                }
            }
        }
        if !pending.is_empty() || others.iter().any(|failure| !failure.cause.is_refusal()) {
            let of_set = self.functions.iter().map(|function| function.address);
            lost.unclean = of_set.filter(|gpu| !gone.iter().any(|failure| failure.gpu == *gpu)).collect();
        }
        lost
    }

    /// Keeps a GPU locked for as long as this process lives: nobody may have it, and that could not be written down.
    pub fn keep_locked(&self, gpu: PciAddress) {
        self.locks.iter().filter(|lock| lock.gpu() == gpu).for_each(|lock| mem::forget(Arc::clone(lock)));
    }

    /// Puts the power settings back and frees all. Returns what could not be put back.
    #[must_use]
    pub fn release(self) -> Vec<power::Error> {
        self.awake.into_iter().filter_map(|awake| awake.release().err()).collect()
    }
}

/// Opens one that is locked.
///
/// # Errors
/// As [`Gpu::attach`].
pub async fn attach(
    lock: &Arc<GpuLock>,
    function: &Function,
    registers: Box<dyn Registers>,
    progress: &Progress,
) -> Result<Gpu<Attached>, Failure> {
    let reset = function.reset_kind().unwrap_or(ResetKind::Function);
    Gpu::attach(lock, function.id, reset, registers, progress).await
}
