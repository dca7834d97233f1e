//! `coffer measure initdata`: the digest of a document and the report's fields for it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use super::{Output, json};
use crate::initdata::{hex, read};

/// Arguments of `coffer measure initdata`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The document, or the annotation or the disk that holds it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value_t = Field::Digest)]
    field: Field,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text, conflicts_with = "field")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Field {
    /// The digest, as long as its algorithm makes it
    Digest,
    /// SNP's HOST_DATA: 32 bytes
    HostData,
    /// TDX's MRCONFIGID: 48 bytes
    Mrconfigid,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let (_, document) = read(&args.file)?;
    match (args.output, args.field) {
        (Output::Text, Field::Digest) => writeln!(out, "{}", hex(&document.digest()))?,
        (Output::Text, Field::HostData) => writeln!(out, "{}", document.host_data())?,
        (Output::Text, Field::Mrconfigid) => writeln!(out, "{}", document.mr_config_id())?,
        (Output::Json, _) => {
            let value = json!({
                "algorithm": document.algorithm().name(),
                "digest": hex(&document.digest()),
                "host_data": document.host_data().to_string(),
                "mrconfigid": document.mr_config_id().to_string(),
            });
            json(&value, out)?;
        }
    }
    Ok(())
}
