//! `coffer rehearse`: whether a key broker's policy will give a pod its key, before a GPU is taken for the pod.
//!
//! The token that the pod's VM would get is predicted, and the broker's real policy is asked about it. Where it says no, the
//! prediction is changed in one thing, and then in two, until it says yes: that is what the policy wants to be different.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::pod::{self, Node};
use super::trustee::Resource;
use crate::files::Kind;

mod prediction;
mod search;

use search::{Answer, Broker};

/// Arguments of `coffer rehearse`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The pod's manifest
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    node: Node,
    /// QEMU's ACPI files for this pod, as for `coffer measure pod`: then RTMR0 is known
    #[arg(long, value_name = "DIRECTORY")]
    acpi: Option<PathBuf>,
    /// The broker's resource policy (Rego); `coffer measure merge` makes one
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The resource that the pod will ask for: REPOSITORY/TYPE/TAG
    #[arg(long, value_name = "PATH")]
    resource: Resource,
}

/// What no prediction knows, and so nobody has said yes to.
const NOT_CHECKED: [&str; 5] = [
    "that the broker has this policy, this resource, and the reference values",
    "that its verifier judges every part affirming: versions of firmware (TCB), certificates and collateral it can reach",
    "the GPUs' own reports: driver and VBIOS that NVIDIA has reference values for, revocation",
    "that the pod reaches the broker, and that initdata pins the certificate that it shows",
    "what the cluster adds to the pod on admission: `kubectl get pod -o yaml` has it",
];

/// Asks the policy.
///
/// # Errors
/// A file that cannot be used, and a policy that does not give the resource.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let text = String::from_utf8(Kind::POLICY.read(&args.policy)?)
        .map_err(|error| error.utf8_error())
        .with_context(|| Kind::POLICY.unusable(&args.policy))?;
    let broker = Broker::new(&text, &args.resource).with_context(|| Kind::POLICY.unusable(&args.policy))?;
    let planned = pod::read(&args.file, &args.node)?;
    let demand = pod::of_plan(&planned, args.node.class, args.acpi.as_deref())?;
    let answer = search::rehearse(&broker, &demand);
    match &answer {
        Answer::Given(with) => {
            writeln!(out, "given         {} to the pod {}{with}", args.resource, demand.name)?
        }
        Answer::Denied(why) => {
            writeln!(out, "DENIED        {} to the pod {}: {why}", args.resource, demand.name)?
        }
    }
    for (rank, what) in NOT_CHECKED.iter().enumerate() {
        writeln!(out, "{:<13} {what}", if rank == 0 { "not checked" } else { "" })?;
    }
    match answer {
        Answer::Given(_) => Ok(()),
        Answer::Denied(_) => bail!("the policy {} does not give the key to this pod", args.policy.display()),
    }
}
