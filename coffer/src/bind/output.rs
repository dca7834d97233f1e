//! Where bound manifests go: standard output, their own files, another directory, or nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use super::report::Report;
use super::{Args, Bound};

/// Writes all, or nothing where anything is wrong. Tells faults and notes on standard error, and the table where it does
/// not come between the manifests.
pub(super) fn finish(args: &Args, all: Vec<Bound>, report: Report, out: &mut impl Write) -> Result<ExitCode> {
    let is_quiet = !(args.check || args.in_place || args.output.is_some());
    eprint!("{}", report.lines());
    let table = report.table(args.check);
    if is_quiet {
        eprint!("{table}");
    } else {
        out.write_all(table.as_bytes())?;
    }
    if !report.is_clean() {
        if !args.check {
            eprintln!("coffer: nothing is written, since there are faults");
        }
        return Ok(ExitCode::FAILURE);
    }
    if args.check {
        if report.has_changes() {
            eprintln!(
                "coffer: what is bound is out of date: run the same with --in-place instead of --check"
            );
            return Ok(ExitCode::FAILURE);
        }
    } else if args.in_place {
        let changed = |bound: &&Bound| bound.text != bound.input.text;
        for Bound { input, text } in all.iter().filter(changed) {
            if let Some(path) = &input.path {
                replace(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    } else if let Some(directory) = &args.output {
        let mut names = BTreeMap::new();
        for Bound { input, .. } in &all {
            if let Some(before) = names.insert(&input.name, input.label()) {
                anyhow::bail!(
                    "{before} and {} would both be {}: give one another name",
                    input.label(),
                    input.name.display()
                );
            }
        }
        for Bound { input, text } in &all {
            let path = directory.join(&input.name);
            let write = || {
                fs::create_dir_all(path.parent().unwrap_or(directory))?;
                replace(&path, text)
            };
            write().with_context(|| format!("cannot write {}", path.display()))?;
        }
    } else if args.emit.is_none() && !args.explain {
        for (rank, Bound { text, .. }) in all.iter().enumerate() {
            if rank > 0 && !text.starts_with("---") {
                out.write_all(b"---\n")?;
            }
            out.write_all(text.as_bytes())?;
            if !text.ends_with('\n') {
                out.write_all(b"\n")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The old file or the new one, whole, whatever happens: with the old one's rights, and by the file that a link leads to.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let parent =
        real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = NamedTempFile::with_prefix_in(".coffer-bind-", parent)?;
    match fs::metadata(&real) {
        Ok(before) if before.permissions().readonly() => return Err(io::ErrorKind::PermissionDenied.into()),
        Ok(before) => file.as_file().set_permissions(before.permissions())?,
        Err(_) => {
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        }
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&real)?;
    Ok(())
}
