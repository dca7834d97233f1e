//! `coffer measure merge`: one output for Trustee of several pods', since a KBS has one policy for all its resources.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{json, trustee};
use crate::files::Kind;

/// Arguments of `coffer measure merge`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Outputs of `coffer measure pod -o trustee`, one or more
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let read = |path: &PathBuf| -> Result<Value> {
        let value = serde_json::from_slice(&Kind::TRUSTEE.read(path)?)
            .with_context(|| Kind::TRUSTEE.unusable(path))?;
        // Alone, so that an error names the file.
        trustee::merge(std::slice::from_ref(&value)).with_context(|| Kind::TRUSTEE.unusable(path))?;
        Ok(value)
    };
    let outputs: Vec<Value> = args.files.iter().map(read).collect::<Result<_>>()?;
    json(&trustee::merge(&outputs)?, out)
}
