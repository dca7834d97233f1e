//! Times the digests: `cargo run --release -p measurement --example timing FIRMWARE...`
//!
//! For each firmware the median of 21 runs, from the image's bytes to the digest, of whichever kinds it is for.

use std::time::{Duration, Instant};
use std::{env, fs, io};

use measurement::Cmdline;
use measurement::ovmf::Firmware;
use measurement::snp::{CpuSignature, Guest, GuestFeatures, KernelHashes, VcpuCount, launch_digest};
use measurement::tdx::{PageOrder, mrtd};

const RUNS: usize = 21;

fn main() -> io::Result<()> {
    let cmdline = Cmdline::new("console=ttyS0").map_err(io::Error::other)?;
    let guest = Guest {
        vcpus: VcpuCount::new(16).map_err(io::Error::other)?,
        cpu: CpuSignature::of_model("EPYC-Genoa").map_err(io::Error::other)?,
        features: GuestFeatures::SNP,
        kernel: Some(KernelHashes::new(b"kernel", None, cmdline)),
    };
    for path in env::args().skip(1) {
        let image = fs::read(&path)?;
        let firmware = || Firmware::parse(&image).map_err(io::Error::other);
        println!("{path}: {} bytes, {}", image.len(), firmware()?.kind().map_err(io::Error::other)?);
        time("SNP, 16 vCPUs", || launch_digest(&firmware()?, &guest).map_err(io::Error::other));
        time("MRTD", || mrtd(&firmware()?, PageOrder::SinglePass).map_err(io::Error::other));
    }
    Ok(())
}

fn time<T>(what: &str, digest: impl Fn() -> io::Result<T>) {
    if let Err(error) = digest() {
        println!("  {what}: {error}");
        return;
    }
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(digest()).ok();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("  {what}: {:.1} ms", times[RUNS / 2].as_secs_f64() * 1000.0);
}
