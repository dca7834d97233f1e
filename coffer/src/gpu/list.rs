//! What there is.

use std::io::Write;

use anyhow::{Result, ensure};
use gpu::Kind;
use gpu::chip::Capability;
use gpu::claim::Way as _;
use gpu::fabric::Fabric;
use gpu::lock::{self, Look};
use gpu::quarantine::Quarantine;
use gpu::sysfs::{Function, Inventory};
use gpu::{Mode, Progress};
use serde::Serialize;

use super::{Host, Output};

/// One line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    address: String,
    name: String,
    chip: Option<String>,
    device_id: String,
    driver: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    /// `None`: not readable now, see `problem`.
    cc_mode: Option<Mode>,
    ppcie: Option<bool>,
    cc_capable: bool,
    /// Why it is not capable.
    why_not: Option<&'static str>,
    holder: Option<String>,
    quarantine: Option<String>,
    /// Its module on an NVSwitch board.
    module: Option<u32>,
    /// The board's partitions that it is in: the fabric manager's numbers.
    partitions: Vec<u32>,
    /// Why the mode is not known.
    problem: Option<String>,
}

pub(super) async fn run(host: &Host, output: Output, out: &mut impl Write) -> Result<()> {
    let Inventory { functions, unreadable } = host.sysfs().discover()?;
    let fabric = Fabric::read(&host.state())?;
    let mut rows = Vec::new();
    for function in &functions {
        rows.push(row(host, function, fabric.as_ref()).await);
    }
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
        Output::Table if rows.is_empty() && !unreadable.is_empty() => {}
        Output::Table if rows.is_empty() => writeln!(out, "No NVIDIA GPU or NVSwitch on this host.")?,
        Output::Table => {
            table(&rows, out)?;
            if let Some(fabric) = &fabric {
                partitions(&rows, fabric, out)?;
            }
        }
    }
    // Those that can be read are shown; that these are all would be wrong.
    let unreadable: Vec<_> =
        unreadable.into_iter().map(|error| format!("{:#}", anyhow::Error::new(error))).collect();
    ensure!(
        unreadable.is_empty(),
        "there are more, of which sysfs cannot be read: {}",
        unreadable.join("; ")
    );
    Ok(())
}

async fn row(host: &Host, function: &Function, fabric: Option<&Fabric>) -> Row {
    let (cc_capable, why_not) = capable(function);
    let mut problems = Vec::new();
    let holder = lock::holder(&host.state(), function.address).unwrap_or_else(|error| {
        problems.push(format!("{:#}", anyhow::Error::new(error)));
        None
    });
    let quarantine = match Quarantine::new(&host.state()).of(function.address) {
        Ok(entry) => entry.map(|entry| entry.reason),
        // Fail closed: a record that cannot be read keeps it in.
        Err(error) => Some(format!("{:#}", anyhow::Error::new(error))),
    };
    let mode = if holder.is_some() || function.chip.is_none() {
        None
    } else {
        mode(host, function).await.map_err(|error| problems.push(format!("{error:#}"))).ok()
    };
    let module = fabric.and_then(|fabric| fabric.module(function.address));
    let partitions = fabric.zip(module).map(|(fabric, module)| {
        let with_it = fabric.partitions().iter().filter(|partition| partition.modules.contains(&module));
        with_it.map(|partition| partition.id).collect()
    });
    Row {
        module,
        partitions: partitions.unwrap_or_default(),
        address: function.address.to_string(),
        name: name(function),
        chip: function.chip.map(|chip| chip.to_string()),
        device_id: function.id.to_string(),
        driver: function.driver.clone(),
        iommu_group: function.group.as_ref().map(|group| group.id),
        numa_node: function.numa_node,
        cc_mode: mode.map(|mode| if mode == Mode::Ppcie { Mode::Off } else { mode }),
        ppcie: mode.map(|mode| mode == Mode::Ppcie),
        cc_capable,
        why_not,
        holder,
        quarantine,
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
    }
}

/// What people call it: the product, or else the chip.
fn name(function: &Function) -> String {
    let product = function.id.product(function.subsystem).map(str::to_owned);
    product.or_else(|| Some(function.chip?.to_string())).unwrap_or_else(|| "unknown".to_owned())
}

/// Claims wait meanwhile.
async fn mode(host: &Host, function: &Function) -> Result<Mode> {
    let look = Look::begin(&host.state(), function.address).await?;
    let registers = host.registers(function).await?;
    Ok(gpu::look_at(&look, function.id, registers, &Progress::silent()).await?.mode)
}

fn capable(function: &Function) -> (bool, Option<&'static str>) {
    match (function.kind, function.id.capability(function.subsystem)) {
        (Kind::NvSwitch, Some(_)) => (false, Some("an NVSwitch has protected PCIe only")),
        (Kind::Gpu, Some(Capability::Yes)) => (true, None),
        (_, Some(Capability::Firmware)) => {
            (false, Some("joined to its CPU, the system's firmware owns the mode"))
        }
        (_, Some(_)) => (false, Some("NVIDIA does not offer it for this product")),
        (_, None) => {
            (false, Some("the chip is not known; it can go to plain VMs, as its mode cannot be read"))
        }
    }
}

/// A line for each partition that the board can have: the GPUs of one, and whether nobody has any of them.
fn partitions(rows: &[Row], fabric: &Fabric, out: &mut impl Write) -> Result<()> {
    for partition in fabric.partitions() {
        let of = |module: &u32| rows.iter().find(|row| row.module == Some(*module));
        let gpus: Vec<_> = partition.modules.iter().map(|module| (module, of(module))).collect();
        let named = gpus.iter().map(|(module, row)| match row {
            Some(row) => row.address.clone(),
            None => format!("(module {module} is not here)"),
        });
        let any = |is: fn(&Row) -> bool| gpus.iter().flat_map(|(_, row)| *row).any(is);
        let state = if gpus.iter().any(|(_, row)| row.is_none()) {
            "not whole"
        } else if any(|row| row.quarantine.is_some()) {
            "quarantined"
        } else if any(|row| row.holder.is_some()) {
            "in use"
        } else {
            "free"
        };
        let named = named.collect::<Vec<_>>().join(" ");
        writeln!(
            out,
            "partition {} of {}, modules {}: {state}: {named}",
            partition.id,
            gpus.len(),
            partition.sum()
        )?;
    }
    Ok(())
}

fn table(rows: &[Row], out: &mut impl Write) -> Result<()> {
    let head = ["ADDRESS", "NAME", "CHIP", "DRIVER", "GROUP", "NUMA", "CC", "PPCIE", "HOLDER", "STATE"];
    let mut lines = vec![head.map(str::to_owned)];
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        let state = if row.quarantine.is_some() {
            "quarantined"
        } else if row.problem.is_some() {
            "problem"
        } else if row.holder.is_some() {
            "in use"
        } else {
            "free"
        };
        lines.push([
            row.address.clone(),
            row.name.clone(),
            dash(row.chip.clone()),
            dash(row.driver.clone()),
            dash(row.iommu_group.map(|group| group.to_string())),
            dash(row.numa_node.map(|node| node.to_string())),
            dash(row.cc_mode.map(|mode| mode.to_string())),
            dash(row.ppcie.map(|on| if on { "on" } else { "off" }.to_owned())),
            dash(row.holder.clone()),
            state.to_owned(),
        ]);
    }
    let widths: Vec<usize> =
        (0..head.len()).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    for row in rows {
        let notes = [("quarantine", &row.quarantine), ("problem", &row.problem)];
        for (what, text) in notes {
            if let Some(text) = text {
                writeln!(out, "{} {what}: {text}", row.address)?;
            }
        }
        if let Some(why) = row.why_not {
            writeln!(out, "{} not CC-capable: {why}", row.address)?;
        }
    }
    Ok(())
}
