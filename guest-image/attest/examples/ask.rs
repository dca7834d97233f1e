//! Asks a key broker for a resource with sample evidence, as a guest without confidential computing would:
//!
//! `cargo run -p coffer-attest --example ask -- DIRECTORY REPOSITORY/TYPE/TAG`
//!
//! The directory has `aa.toml` or `cdh.toml`, as the guest has them, and perhaps `initdata.toml`. The broker needs a policy that
//! takes the sample verifier's claims.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use attest::broker::Client;
use attest::config::Broker;
use attest::evidence::sample::Sample;
use attest::evidence::{Attester, Declared, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(directory), Some(path)) = (words.next().map(PathBuf::from), words.next()) else {
        return Err("say where aa.toml is, and what to ask for".into());
    };
    let gpus = words.next().map_or(Ok(0), |word| word.parse())?;
    let attester = Attester::new(Box::new(Sample), Source::Sample, Declared { gpus, switches: 0 });
    let initdata = std::fs::read_to_string(directory.join("initdata.toml")).ok();
    let client = Client::new(&Broker::read(&directory)?, attester, initdata);
    let path = path.parse()?;
    for _ in 0..2 {
        let began = Instant::now();
        let resource = client.resource(&path).map_err(|error| shared_types::one_line(&error))?;
        eprintln!("{} bytes in {} ms", resource.len(), began.elapsed().as_millis());
        std::io::stdout().write_all(&resource)?;
    }
    Ok(())
}
