//! NVIDIA's GPUs, from devices on the bus to devices that containers can have.
//!
//! It is done where the initdata declares GPUs, and by what the measured root brings: modules, firmware, the persistence daemon
//! and a program that asks the driver. What is not as declared ends the boot. The order is that of NVIDIA's own guests (NVRC,
//! `src/main.rs`): a GPU makes one confidential session with its driver after a reset, and loses it when its last user
//! closes it; so somebody holds all GPUs open before anybody else may ask them.
//!
//! The GPUs take no work yet when this ends: that is the attestation service's to say, once somebody believed their evidence.
//!
//! ```text
//! plan    what these devices need: parameters, daemons, time       (pure)
//! driver  who does it: kernel, daemons, the program that asks      (the one seam)
//! cdi     what containers get, for the agent                       (pure)
//! ```

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::path::Path;
use std::time::Duration;

use shared_types::{GpuMode, PciAddress};

use crate::console::say;
use crate::inventory::Found;

mod cdi;
pub mod driver;
mod installed;
mod plan;

pub use driver::{Driver, Fault};
pub use installed::{Installed, InstalledError};
use plan::{NoPlan, Plan};

/// What the driver says of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it is.
    pub slot: PciAddress,
    /// The number of its device node.
    pub minor: u16,
    /// Which mode the driver runs it in.
    pub mode: GpuMode,
    /// The driver's name of this one.
    pub uuid: String,
    /// What it is, in NVIDIA's words.
    pub product: String,
}

/// What the driver is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Load a module.
    Load(&'static str),
    /// Make nodes in /dev.
    Nodes,
    /// Hold the GPUs open.
    Open,
    /// Bring up the links between GPUs.
    Join,
    /// Ask the driver what the GPUs are.
    Ask,
    /// Write down what containers get.
    Publish,
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Load(module) => write!(f, "loading the module {module}"),
            Step::Nodes => f.write_str("making device nodes"),
            Step::Open => f.write_str("opening all of them (persistence daemon)"),
            Step::Join => f.write_str("connecting them (fabric manager)"),
            Step::Ask => f.write_str("asking the driver what they are"),
            Step::Publish => f.write_str("describing them to the agent (CDI)"),
        }
    }
}

/// Why the pod cannot have its GPUs.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The image cannot drive any.
    #[error("the initdata declares GPUs, and this image has no driver for them")]
    NoDriver,
    /// Nobody would ever say that they may work.
    #[error(
        "the initdata declares GPUs and names no key broker: nobody could attest them, and until somebody has they take no work"
    )]
    NoBroker,
    /// What the image says of its driver is not usable.
    #[error(transparent)]
    Installed(#[from] InstalledError),
    /// No VM of ours has these.
    #[error(transparent)]
    Plan(#[from] NoPlan),
    /// A step failed or took too long.
    #[error("GPUs: {step} failed")]
    Step {
        step: Step,
        #[source]
        fault: Fault,
    },
    /// Fewer or more than there are.
    #[error("the driver has {seen} GPUs, and {there} are there and declared")]
    Count { seen: usize, there: usize },
    /// One that is not on the bus, or twice.
    #[error("the driver says of GPU {0} what is said of no other, or of none that is there")]
    Stranger(PciAddress),
    /// Another mode.
    #[error("GPU {slot} ({uuid}): {}; {} is needed", .found.in_words(), .wanted.in_words())]
    Mode { slot: PciAddress, uuid: String, found: GpuMode, wanted: GpuMode },
    /// Another product.
    #[error("GPU {slot} is a {found:?}, and coffer.toml in the initdata declares gpu_model = {declared:?}")]
    Model { slot: PciAddress, found: String, declared: String },
}

/// Brings up what is there, and says each step; `model` is what the initdata declares of all of them.
///
/// # Errors
///
/// [`GpuError`] for the first thing that is not as it must be.
pub fn bring_up(
    driver: &mut impl Driver,
    installed: &Installed,
    found: &Found,
    model: Option<&str>,
) -> Result<(), GpuError> {
    let plan = Plan::of(found)?;
    let step = |step| move |fault| GpuError::Step { step, fault };
    for module in installed.modules(&plan) {
        say(format_args!("GPUs: {}{}", Step::Load(module.name), Words(module.parameters)));
        driver.load(&module, plan.loading).map_err(step(Step::Load(module.name)))?;
    }
    let nodes = driver.nodes(plan.gpus()).map_err(step(Step::Nodes))?;
    if installed.has_persistence() {
        say(format_args!("GPUs: {}, at most {} s", Step::Open, plan.opening.as_secs()));
        driver.open(&plan, &mut |opening| say(opening)).map_err(step(Step::Open))?;
    }
    if plan.fabric {
        say(format_args!("GPUs: {}, at most {} s", Step::Join, plan.opening.as_secs()));
        driver.join(plan.opening).map_err(step(Step::Join))?;
    }
    say(format_args!("GPUs: {}", Step::Ask));
    let mut seen = driver.ask(plan.asking).map_err(step(Step::Ask))?;
    judge(&seen, &plan, model)?;
    seen.sort_by_key(|gpu| gpu.slot);
    for gpu in &seen {
        say(format_args!("GPU {}: {} ({}), {}", gpu.slot, gpu.product, gpu.uuid, gpu.mode.in_words()));
    }
    let spec = cdi::spec(&seen, &nodes, installed.libraries());
    driver.publish(&spec).map_err(step(Step::Publish))?;
    say(format_args!("GPUs: {} described to the agent, not ready before they are attested", seen.len()));
    Ok(())
}

/// Compares what the driver says with what is there and was declared.
fn judge(seen: &[Seen], plan: &Plan, model: Option<&str>) -> Result<(), GpuError> {
    let there: BTreeSet<PciAddress> = plan.slots.iter().copied().collect();
    let (mut slots, mut names, mut minors) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for gpu in seen {
        let is_new = slots.insert(gpu.slot) && names.insert(gpu.uuid.as_str()) && minors.insert(gpu.minor);
        if !is_new || !there.contains(&gpu.slot) {
            return Err(GpuError::Stranger(gpu.slot));
        }
    }
    if slots != there {
        return Err(GpuError::Count { seen: seen.len(), there: there.len() });
    }
    for gpu in seen {
        if gpu.mode != plan.mode {
            let (slot, uuid) = (gpu.slot, gpu.uuid.clone());
            return Err(GpuError::Mode { slot, uuid, found: gpu.mode, wanted: plan.mode });
        }
        if let Some(declared) = model.filter(|model| !is_of_model(&gpu.product, model)) {
            let (found, declared) = (gpu.product.clone(), declared.to_owned());
            return Err(GpuError::Model { slot: gpu.slot, found, declared });
        }
    }
    Ok(())
}

/// Whether a product's name has all the words of a model's: `H100` is one of `NVIDIA H100 80GB HBM3`, and not of `NVIDIA H1000`.
fn is_of_model(product: &str, model: &str) -> bool {
    let words: BTreeSet<String> = product.split_whitespace().map(str::to_ascii_lowercase).collect();
    model.split_whitespace().all(|word| words.contains(&word.to_ascii_lowercase()))
}

/// How far opening has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// One more.
    One { slot: PciAddress, after: Duration },
    /// Nothing new for a while.
    Waiting { open: usize, of: usize, after: Duration, limit: Duration },
}

impl Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opening::One { slot, after } => write!(f, "GPU {slot}: open after {} s", after.as_secs()),
            Opening::Waiting { open, of, after, limit } => {
                let (after, limit) = (after.as_secs(), limit.as_secs());
                write!(f, "GPUs: {open} of {of} open after {after} s, at most {limit} s")
            }
        }
    }
}

/// Parameters behind a name.
struct Words(&'static str);

impl Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " with {}", self.0) }
    }
}

/// Brings up the declared GPUs of this VM, where there are some. An image for work on Coffer may be without a driver.
///
/// # Errors
///
/// [`GpuError`].
pub fn of_this_vm(root: &Path, found: &Found, order: &Order) -> Result<(), GpuError> {
    let Some(installed) = Installed::read(root)? else {
        if order.may_lack_driver {
            say("GPUs: this image has no driver for them; they are there and cannot be used");
            return Ok(());
        }
        return Err(GpuError::NoDriver);
    };
    if !order.has_broker {
        return Err(GpuError::NoBroker);
    }
    say(format_args!("GPUs: driver {}", installed.version()));
    let mut driver = driver::Kernel::new(root, &installed);
    bring_up(&mut driver, &installed, found, order.model.as_deref())
}

/// What the pod's owner and the image say of GPUs.
#[derive(Debug, PartialEq, Eq)]
pub struct Order {
    /// Which product all of them are.
    pub model: Option<String>,
    /// Whether somebody will attest them.
    pub has_broker: bool,
    /// Whether the image is for work on Coffer.
    pub may_lack_driver: bool,
}

#[cfg(test)]
mod tests;
