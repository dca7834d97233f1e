//! `coffer measure acpi`: the ACPI tables of a pod's VM, by running QEMU with the same devices and firmware.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use measurement::tdx::{FwCfgFiles, TABLE_LOADER, acpi_files};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use vmm::progress::Activity;
use vmm::qmp::Qmp;
use vmm_config::passthrough::AddressWidth;
use vmm_config::qemu::INITDATA_FILE;

use super::pod::{self, Class, Node};

/// How long the firmware may take to its first look at the disk; two seconds are usual.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);
/// Most of what QEMU complained of that an error quotes, in bytes.
const QUOTED: usize = 2000;

/// Arguments of `coffer measure acpi`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pod's manifest, as for `coffer measure pod`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    node: Node,
    /// Where to write the files, by their names in QEMU's fw_cfg
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Length of the node's physical addresses in bits (`address sizes` in its /proc/cpuinfo, where TDX is off)
    #[arg(long, value_name = "BITS", default_value = "52", value_parser = width)]
    phys_bits: AddressWidth,
}

fn width(text: &str) -> Result<AddressWidth, String> {
    let bits = text.parse().map_err(|_| "a width is a number of bits".to_owned())?;
    AddressWidth::new(bits).map_err(|error| error.to_string())
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    ensure!(args.node.class == Class::CofferTdx, "SNP measures no ACPI tables: --class must be coffer-tdx");
    let planned = pod::read(&args.file, &args.node)?;
    ensure!(
        planned.pod.limits.gpus.whole() == 0,
        "the pod {} has GPUs, whose address windows are in the tables: take them from a VM that has the GPUs \
         (docs/attestation.md)",
        planned.pod.name
    );
    let (spec, _) = pod::vm(&planned, args.node.class)?;
    let line = spec.rehearsal_args(args.phys_bits)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let files = runtime.block_on(rehearse(planned.config.qemu.as_str(), &line))?;
    for (name, content) in &files {
        let path = args.directory.join(name);
        write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(out, "{} ({} bytes)", path.display(), content.len())?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, content)
}

/// Runs QEMU until the firmware has taken the tables, and takes them as well.
async fn rehearse(program: &str, line: &[String]) -> Result<FwCfgFiles> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    fs::write(directory.path().join(INITDATA_FILE), [0; 512])?;
    let said = directory.path().join("stderr");
    let mut qemu = Command::new(program)
        .args(line)
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&said)?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start QEMU (key `qemu`: {program})"))?;
    let files = match tokio::time::timeout(PATIENCE, tables(&mut qemu)).await {
        Ok(files) => files,
        Err(_) => bail!(
            "the firmware did not look at its disk within {} s: is it a build of OVMF for TDX that starts without TDX?",
            PATIENCE.as_secs()
        ),
    };
    let _ = qemu.kill().await;
    files.with_context(|| {
        let said = fs::read(&said).unwrap_or_default();
        let said = String::from_utf8_lossy(said.get(..QUOTED).unwrap_or(&said)).trim().replace('\n', "; ");
        format!("QEMU ({program}) gave no ACPI tables; it said: {said:?}")
    })
}

async fn tables(qemu: &mut Child) -> Result<FwCfgFiles> {
    let (Some(input), Some(output), Some(pid)) = (qemu.stdin.take(), qemu.stdout.take(), qemu.id()) else {
        bail!("QEMU ended at once");
    };
    let (monitor, _events) = Qmp::connect(output, input, None, Activity::default()).await?;
    // The firmware numbers the PCI buses, has QEMU complete the tables, installs them, and only then looks at disks (edk2,
    // `OvmfPkg/Library/PlatformBootManagerLib/BdsPlatform.c`).
    while !has_read_its_disk(&monitor.execute("query-blockstats", Value::Null).await?) {
        tokio::time::sleep(PAUSE).await;
    }
    monitor.execute("stop", Value::Null).await?;
    let blocks = monitor.execute("human-monitor-command", json!({ "command-line": "info ramblock" })).await?;
    let files = read_blocks(blocks.as_str().unwrap_or_default(), pid)?;
    let script = files.get(TABLE_LOADER).context("it has no etc/table-loader")?;
    for name in acpi_files(script)? {
        ensure!(files.contains_key(name), "it has no {name}");
    }
    Ok(files)
}

fn has_read_its_disk(stats: &Value) -> bool {
    let disks = stats.as_array().into_iter().flatten();
    disks.filter(|disk| disk["node-name"] == "root").any(|disk| disk["stats"]["rd_operations"] != 0)
}

/// Reads the files out of QEMU's memory: each is a RAM block `/rom@NAME`, and `info ramblock` says where.
fn read_blocks(blocks: &str, pid: u32) -> Result<FwCfgFiles> {
    let path = format!("/proc/{pid}/mem");
    let memory = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let mut files = BTreeMap::new();
    for line in blocks.lines() {
        let mut fields = line.split_whitespace();
        let Some(name) = fields.next().and_then(|name| name.strip_prefix("/rom@")) else { continue };
        // Offset, used size, whole size, address in the process.
        let numbers: Vec<_> =
            fields.filter_map(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok()).collect();
        let &[_, size, _, address] = &numbers[..] else { bail!("`info ramblock` says {line:?}") };
        ensure!(size <= crate::files::Kind::ACPI.max() as u64, "{name} has {size} bytes");
        let mut content = vec![0; usize::try_from(size)?];
        memory
            .read_exact_at(&mut content, address)
            .with_context(|| format!("cannot read {name} in {path}"))?;
        files.insert(name.to_owned(), content);
    }
    Ok(files)
}
