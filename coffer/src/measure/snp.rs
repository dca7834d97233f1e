//! `coffer measure snp`: the launch digest.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use measurement::Cmdline;
use measurement::ovmf::Firmware;
use measurement::snp::{CpuSignature, Guest, GuestFeatures, KernelHashes, VcpuCount, launch_digest};
use serde_json::json;

use super::{Output, json};
use crate::files::Kind;

/// Arguments of `coffer measure snp`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Firmware: an AmdSev build of OVMF
    #[arg(long, value_name = "FILE")]
    firmware: PathBuf,
    /// Kernel that QEMU gets with -kernel; without one, nothing that is booted is measured
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initrd that QEMU gets with -initrd
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The kernel's command line [default: empty]
    #[arg(long, value_name = "STRING", requires = "kernel", allow_hyphen_values = true)]
    append: Option<String>,
    /// Number of vCPUs
    #[arg(long, value_name = "N")]
    vcpus: VcpuCount,
    /// CPU model, as QEMU names it
    #[arg(long, value_name = "NAME", value_parser = CpuSignature::of_model, required_unless_present = "cpu_signature")]
    cpu: Option<CpuSignature>,
    /// EAX of CPUID leaf 1 in the guest, for other models and `-cpu host`
    #[arg(long, value_name = "0xHEX", conflicts_with = "cpu")]
    cpu_signature: Option<CpuSignature>,
    /// SEV features that host kernel and QEMU give the guest
    ///
    /// 0x1 with Linux 6.11 or newer and QEMU 11 as Coffer starts it, on every host: QEMU 11 cannot be asked for more.
    /// 0x21 with a kernel that has SNP patches from before 6.11 and swaps debug registers (kvm_amd.debug_swap), or with a
    /// QEMU that has the property debug-swap and got it; 0x201 with one that has secure-tsc.
    #[arg(long, value_name = "0xHEX", default_value = "0x1", value_parser = features)]
    guest_features: GuestFeatures,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

fn features(text: &str) -> Result<GuestFeatures, String> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let bits = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let bits = bits.ok_or("features are a hexadecimal number, such as 0x1")?;
    GuestFeatures::new(bits).map_err(|e| e.to_string())
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    // Clap has seen to it that one of them is there.
    let cpu = args.cpu.or(args.cpu_signature).context("give --cpu or --cpu-signature")?;
    let cmdline =
        Cmdline::new(args.append.as_deref().unwrap_or_default()).context("cannot measure --append")?;
    let initrd = args.initrd.as_deref().map(|path| Kind::INITRD.read(path)).transpose()?;
    let kernel = args.kernel.as_deref().map(|path| Kind::KERNEL.read(path)).transpose()?;
    let kernel = kernel.map(|kernel| KernelHashes::new(&kernel, initrd.as_deref(), cmdline));
    let guest = Guest { vcpus: args.vcpus, cpu, features: args.guest_features, kernel };

    let image = Kind::FIRMWARE.read(&args.firmware)?;
    let digest = Firmware::parse(&image)
        .map_err(Into::into)
        .and_then(|firmware| launch_digest(&firmware, &guest))
        .with_context(|| Kind::FIRMWARE.unusable(&args.firmware))?;
    match args.output {
        Output::Text => writeln!(out, "{digest}")?,
        Output::Json => {
            let hashes = guest.kernel.map(|k| {
                json!({
                    "kernel": k.kernel.to_string(),
                    "initrd": k.initrd.to_string(),
                    "cmdline": k.cmdline.to_string(),
                })
            });
            let value = json!({
                "launch_digest": digest.to_string(),
                "vcpus": args.vcpus.to_string().parse::<u16>()?,
                "cpu_signature": cpu.to_string(),
                "guest_features": format!("{:#x}", args.guest_features.bits()),
                "kernel_hashes": hashes,
            });
            json(&value, out)?;
        }
    }
    Ok(())
}
