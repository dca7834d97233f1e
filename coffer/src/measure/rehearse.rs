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

mod admin;
mod prediction;
#[cfg(test)]
mod samples;
mod search;

use admin::{Admin, Finding};
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
    #[arg(long, value_name = "FILE", required_unless_present = "kbs", conflicts_with = "kbs")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    broker: admin::Door,
    /// The resource that the pod will ask for: REPOSITORY/TYPE/TAG
    #[arg(long, value_name = "PATH")]
    resource: Resource,
}

/// What no prediction knows, and so nobody has said yes to; the first one without a broker that was asked, the second with one.
const NOT_ASKED: &str = "that the broker has this policy, this resource, and the reference values";
const NOT_SHOWN: &str = "that the broker has this resource: it tells nobody but a pod that gets it";
const NOT_CHECKED: [&str; 4] = [
    "that its verifier judges every part affirming: versions of firmware (TCB), certificates and collateral it can reach",
    "the GPUs' own reports: VBIOS that NVIDIA has reference values for, revocation",
    "that the pod reaches the broker, and that initdata pins the certificate that it shows",
    "what the cluster adds to the pod on admission: `kubectl get pod -o yaml` has it",
];

/// Asks the policy.
///
/// # Errors
/// A file that cannot be used, a broker that does not answer, and a policy or reference values that do not give the resource.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let admin = Admin::of(&args.broker)?;
    let (text, origin) = match (&admin, &args.policy) {
        (Some(admin), _) => (admin.policy()?, "the broker's policy".to_owned()),
        (None, Some(path)) => {
            let text = String::from_utf8(Kind::POLICY.read(path)?).map_err(|error| error.utf8_error());
            (text.with_context(|| Kind::POLICY.unusable(path))?, Kind::POLICY.unusable(path))
        }
        (None, None) => bail!("give --policy FILE or --kbs URL"),
    };
    let broker = Broker::new(&text, &args.resource).with_context(|| origin)?;
    let planned = pod::read(&args.file, &args.node)?;
    let demand = pod::of_plan(&planned, args.node.class, args.acpi.as_deref())?;
    let answer = search::rehearse(&broker, &demand);
    let version = planned.image.gpu_driver.as_deref();
    let mut findings = admin::driver(&demand, version);
    if let Some(admin) = &admin {
        findings.extend(admin.references(&demand, &args.resource)?);
    }
    let wrong: Vec<&str> = findings.iter().filter_map(Finding::wrong).collect();
    let (resource, name) = (&args.resource, &demand.name);
    match &answer {
        Answer::Given(with) if wrong.is_empty() => {
            writeln!(out, "given         {resource} to the pod {name}{with}")?
        }
        Answer::Given(_) => {
            writeln!(out, "DENIED        {resource} to the pod {name}: {}", wrong.join("; and "))?
        }
        Answer::Denied(why) => {
            let all: Vec<&str> = std::iter::once(why.as_str()).chain(wrong.iter().copied()).collect();
            writeln!(out, "DENIED        {resource} to the pod {name}: {}", all.join("; and "))?;
        }
    }
    let right: Vec<&str> = findings.iter().filter_map(Finding::right).collect();
    section(out, "checked", &right)?;
    let rim = version.filter(|_| demand.gpus > 0).map(|version| {
        format!("that NVIDIA has reference values (RIM) for the image's driver {version}: without, each GPU's `measres` is fail")
    });
    let mut unchecked = vec![if admin.is_some() { NOT_SHOWN } else { NOT_ASKED }];
    unchecked.extend(NOT_CHECKED);
    unchecked.extend(rim.as_deref());
    section(out, "not checked", &unchecked)?;
    match answer {
        Answer::Given(_) if wrong.is_empty() => Ok(()),
        _ => bail!("this pod does not get {resource}"),
    }
}

/// A heading and its lines.
fn section(out: &mut impl Write, heading: &str, lines: &[&str]) -> Result<()> {
    for (rank, line) in lines.iter().enumerate() {
        writeln!(out, "{:<13} {line}", if rank == 0 { heading } else { "" })?;
    }
    Ok(())
}
