//! One GPU or NVSwitch in our hands, and what is known about its mode.

use std::sync::Arc;

use crate::boot::{self, Scrubbed};
use crate::chip::{Chip, DeviceId, Family};
use crate::error::PendingMode;
use crate::fsp::{self, Fsp, Waited};
use crate::lock::{GpuLock, Look};
use crate::mode::{self, Active};
use crate::progress::{Phase, Progress};
use crate::registers::{At, Registers, ResetKind, Word};
use crate::switch::{self, Plan};
use crate::{Cause, Failure, Mode, PciAddress, thread};

/// It is awake; its firmware may not have booted, and may never.
#[derive(Debug)]
pub struct Attached(());

/// Its mode has not been read since its last reset, or its settings have been written since.
#[derive(Debug)]
pub struct Unverified(());

/// Its active mode was read after its last reset, and its settings keep it there.
#[derive(Debug)]
pub struct Verified(Mode);

/// A GPU or NVSwitch that is locked, open, awake and booted. Dropping it closes it; VFIO resets it then.
#[derive(Debug)]
pub struct Gpu<S> {
    id: DeviceId,
    chip: Chip,
    reset: ResetKind,
    registers: Box<dyn Registers>,
    // Dropped after the registers: it is closed before anybody else may have it.
    lock: Arc<GpuLock>,
    progress: Progress,
    /// Since its boot.
    waited: Waited,
    state: S,
}

/// A verified GPU, closed again, so that a VM can open it. Nobody else can lock it as long as this is there: what was
/// verified holds.
#[derive(Debug, Clone)]
pub struct Assignable {
    lock: Arc<GpuLock>,
    id: DeviceId,
    chip: Chip,
    mode: Mode,
}

impl Assignable {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.lock.gpu()
    }

    /// Its device id.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Its chip.
    #[must_use]
    pub fn chip(&self) -> Chip {
        self.chip
    }

    /// The mode it runs in.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

#[cfg(test)]
impl Assignable {
    /// As if it had been verified.
    pub(crate) fn for_test(address: PciAddress, id: DeviceId, mode: Mode) -> Self {
        let chip = Chip::of(id).unwrap_or(Chip::Other);
        Self { lock: GpuLock::for_test(address), id, chip, mode }
    }
}

impl<S> Gpu<S> {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.lock.gpu()
    }

    /// Its device id.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Its chip.
    #[must_use]
    pub fn chip(&self) -> Chip {
        self.chip
    }

    fn family(&self) -> Family {
        self.chip.family()
    }

    /// Resets it and waits until its firmware has booted. Settings become active; the mode is unknown again.
    ///
    /// # Errors
    /// The reset was refused, or the GPU did not come back. It is closed then.
    pub async fn reset(self) -> Result<Gpu<Unverified>, Failure> {
        let Self { lock, id, chip, reset, mut registers, progress, waited: _, state: _ } = self;
        let address = lock.gpu();
        let span = progress.begin(address, Phase::Reset);
        // The kernel sleeps for 100 ms and more in it.
        let work = move || {
            let done = registers.reset(reset);
            (registers, done)
        };
        let (mut registers, done) =
            thread::off_thread("gpu-reset", work).await.map_err(|e| span.fail(Cause::Reset(e)))?;
        done.map_err(|e| span.fail(Cause::Reset(e)))?;
        come_up(&mut *registers, address, chip, &progress).await?;
        if chip.family() == Family::Hopper {
            // The internal bus forgets its configuration; NVIDIA's tool sets it up again in the same way.
            for (offset, value) in [(0x12_004c, 4), (0x12_2204, 2)] {
                registers.write32(At::Bar0(offset), value).map_err(|e| span.fail(e))?;
            }
        }
        let waited = Waited::default();
        Ok(Gpu { lock, id, chip, reset, registers, progress, waited, state: Unverified(()) })
    }

    /// Reads the active mode, which may be wrong; it can always be read. A chip that is not known is taken for off.
    ///
    /// # Errors
    /// [`Cause::Unreadable`], [`Cause::InvalidMode`].
    pub async fn query(&mut self) -> Result<Active, Failure> {
        let span = self.progress.begin(self.address(), Phase::Query);
        let family = self.family();
        active(&mut *self.registers, family).map_err(|cause| span.fail(cause))
    }

    /// What its settings will make of it at its next reset.
    ///
    /// # Errors
    /// [`Cause::Fsp`].
    pub async fn pending(&mut self) -> Result<PendingMode, Failure> {
        let span = self.progress.begin(self.address(), Phase::Inspect);
        let family = self.family();
        let work = pending(&mut *self.registers, family, &mut self.waited);
        work.await.map_err(|error| span.fail(error))
    }

    /// Waits until its memory is wiped, which a reset begins.
    ///
    /// # Errors
    /// [`Cause::Gone`], or a register that says for too long that it is not.
    pub async fn scrubbed(&mut self) -> Result<Scrubbed, Failure> {
        let mut span = self.progress.begin(self.address(), Phase::Scrub);
        let family = self.family();
        match boot::scrubbed(&mut *self.registers, family, &mut span).await {
            Ok(Some(scrubbed)) => Ok(scrubbed),
            Ok(None) => Err(span.fail(Cause::NotScrubbed)),
            Err(cause) => Err(span.fail(cause)),
        }
    }
}

impl Gpu<Attached> {
    /// Takes an open function of a GPU that is locked, to be reset by `reset` from now on, and wakes it. Its firmware is
    /// not asked for: what a reset may mend must not stand in its way.
    ///
    /// # Errors
    /// [`Cause::Asleep`], [`Cause::Gone`].
    pub async fn attach(
        lock: &Arc<GpuLock>,
        id: DeviceId,
        reset: ResetKind,
        mut registers: Box<dyn Registers>,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        let lock = Arc::clone(lock);
        let mut span = progress.begin(lock.gpu(), Phase::Open);
        boot::wake(&mut *registers, &mut span).await.map_err(|cause| span.fail(cause))?;
        let chip = Chip::of(id).unwrap_or(Chip::Other);
        let (progress, waited) = (progress.clone(), Waited::default());
        Ok(Self { lock, id, chip, reset, registers, progress, waited, state: Attached(()) })
    }

    /// Waits until its firmware has booted.
    ///
    /// # Errors
    /// The firmware does not boot or is not well. It is closed then.
    pub async fn boot(self) -> Result<Gpu<Unverified>, Failure> {
        let Self { lock, id, chip, reset, mut registers, progress, waited, state: _ } = self;
        let address = lock.gpu();
        boot::wait(&mut *registers, address, chip, &progress).await?;
        Ok(Gpu { lock, id, chip, reset, registers, progress, waited, state: Unverified(()) })
    }
}

impl Gpu<Unverified> {
    /// Takes an open function of a GPU that is locked, to be reset by `reset` from now on, wakes it and waits until its
    /// firmware has booted.
    ///
    /// # Errors
    /// [`Cause::Asleep`], [`Cause::Gone`]; the firmware does not boot or is not well.
    pub async fn open(
        lock: &Arc<GpuLock>,
        id: DeviceId,
        reset: ResetKind,
        registers: Box<dyn Registers>,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        Gpu::attach(lock, id, reset, registers, progress).await?.boot().await
    }

    /// Reads what would have to be written for a mode. Writes nothing, and finds every reason why a write
    /// would be refused.
    ///
    /// # Errors
    /// [`Cause::Unsupported`], [`Cause::Locked`], [`Cause::Fsp`].
    pub async fn plan(&mut self, mode: Mode) -> Result<Plan, Failure> {
        let span = self.progress.begin(self.address(), Phase::Inspect);
        let family = self.family();
        let work = async {
            let subsystem = boot::subsystem(&mut *self.registers)?;
            switch::supported(self.id, subsystem, family, mode)?;
            if family == Family::Other {
                return Ok(Plan::nothing(mode));
            }
            let mut fsp = Fsp::open(&mut *self.registers, family, &mut self.waited).await?;
            Plan::make(&mut fsp, family, mode).await
        };
        work.await.map_err(|cause| span.fail(cause))
    }

    /// Writes the settings of a plan of this GPU. They become active at the next reset, whoever makes it.
    ///
    /// # Errors
    /// [`Cause::Fsp`]; what has been written by then stays written.
    pub async fn write(&mut self, plan: &Plan) -> Result<(), Failure> {
        if plan.changes().is_empty() {
            return Ok(());
        }
        let span = self.progress.begin(self.address(), Phase::Write);
        let family = self.family();
        let work = async {
            let mut fsp = Fsp::open(&mut *self.registers, family, &mut self.waited).await?;
            plan.apply(&mut fsp).await
        };
        work.await.map_err(|error| span.fail(error))
    }

    /// Checks that it runs in a mode and will after the next reset, which is made when a VM opens it.
    ///
    /// # Errors
    /// [`Cause::WrongMode`], [`Cause::Pending`], [`Cause::InvalidMode`]; reading failed. It is closed then.
    pub async fn verify(mut self, wanted: Mode) -> Result<Gpu<Verified>, Failure> {
        let span = self.progress.begin(self.address(), Phase::Verify);
        let family = self.family();
        if family == Family::Other && wanted != Mode::Off {
            return Err(span.fail(Cause::UnknownChip(self.id)));
        }
        let active = active(&mut *self.registers, family).map_err(|cause| span.fail(cause))?;
        if active.mode != wanted {
            let cause = Cause::WrongMode { wanted, active: active.mode, word: active.word };
            return Err(span.fail(cause));
        }
        let work = pending(&mut *self.registers, family, &mut self.waited);
        let pending = work.await.map_err(|error| span.fail(error))?;
        if pending != PendingMode::Mode(wanted) {
            return Err(span.fail(Cause::Pending { active: wanted, pending }));
        }
        let Self { lock, id, chip, reset, registers, progress, waited, state: _ } = self;
        Ok(Gpu { lock, id, chip, reset, registers, progress, waited, state: Verified(wanted) })
    }
}

impl Gpu<Verified> {
    /// The mode it runs in.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.state.0
    }

    /// Closes it, so that a VM can open it.
    #[must_use]
    pub fn close(self) -> Assignable {
        Assignable { lock: self.lock, id: self.id, chip: self.chip, mode: self.state.0 }
    }
}

/// Reads the active mode of a function that nobody has, once its firmware has booted.
///
/// # Errors
/// As [`Gpu::open`] and [`Gpu::query`].
pub async fn look(
    look: &Look,
    id: DeviceId,
    mut registers: Box<dyn Registers>,
    progress: &Progress,
) -> Result<Active, Failure> {
    let (address, chip) = (look.gpu(), Chip::of(id).unwrap_or(Chip::Other));
    come_up(&mut *registers, address, chip, progress).await?;
    let span = progress.begin(address, Phase::Query);
    active(&mut *registers, chip.family()).map_err(|cause| span.fail(cause))
}

async fn come_up(
    registers: &mut dyn Registers,
    address: PciAddress,
    chip: Chip,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut span = progress.begin(address, Phase::Open);
    boot::wake(registers, &mut span).await.map_err(|cause| span.fail(cause))?;
    boot::wait(registers, address, chip, progress).await
}

fn active(registers: &mut dyn Registers, family: Family) -> Result<Active, Cause> {
    let Some(at) = mode::register(family) else { return Ok(Active { mode: Mode::Off, word: 0 }) };
    let word = registers.read32(at)?;
    let word = match word {
        Word::Data(word) => word,
        Word::AllOnes => return Err(Cause::Gone { at }),
        word => return Err(Cause::Unreadable { at, word }),
    };
    Ok(Active::decode(family, word)?)
}

async fn pending(
    registers: &mut dyn Registers,
    family: Family,
    waited: &mut Waited,
) -> Result<PendingMode, fsp::Error> {
    if family == Family::Other {
        return Ok(PendingMode::Mode(Mode::Off));
    }
    let mut fsp = Fsp::open(registers, family, waited).await?;
    switch::pending(&mut fsp, family).await
}
