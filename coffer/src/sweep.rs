//! `coffer sweep`: gives back what dead sandboxes left on the host, and removes the images of containers that are gone.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use host_claims::rootfs::{Cache, DEFAULT_CACHE_BYTES, IMAGES};
use shared_types::one_line;
use slog::{Discard, Logger, o};
use vmm::state::{Orphan, orphans};

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
A shim that is killed leaves things of its sandbox on the host, such as GPUs and cgroups. Every start of a pod gives back in the
background what dead sandboxes have left. This command does it now, waits, and prints how it went. It leaves alone a sandbox whose
shim runs, and one that another process is giving back.

GPUs are reset and their memory is wiped, which takes a while; a GPU that does not come back goes into quarantine (`coffer gpu
list`). Images that were built for a container which is gone are removed, too.

Exit codes:
  0  nothing is left of any dead sandbox
  1  something could not be given back, or the command failed
  2  wrong usage";

/// Arguments of `coffer sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Directory of all sandboxes' records
    #[arg(long, value_name = "DIRECTORY", default_value = vmm::state::ROOT)]
    state: PathBuf,
    /// Directory of the images that were built for containers
    #[arg(long, value_name = "DIRECTORY", default_value = IMAGES)]
    images: PathBuf,
}

/// Gives everything back that it finds, one sandbox after the other.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(sweep(args, out))
}

async fn sweep(args: &Args, out: &mut impl Write) -> Result<ExitCode> {
    let log = Logger::root(Discard, o!());
    let mut code = ExitCode::SUCCESS;
    for path in orphans(&args.state) {
        let failures = match Orphan::take(&path).await {
            Ok(Some(orphan)) => orphan.release(&log).await,
            Ok(None) => continue,
            Err(error) => vec![error],
        };
        if failures.is_empty() {
            writeln!(out, "{}: released", path.display())?;
        }
        for failure in failures {
            writeln!(out, "{}: {}", path.display(), one_line(&failure))?;
            code = ExitCode::FAILURE;
        }
    }
    // After the sandboxes, whose images are nobody's only now.
    for image in Cache::new(&args.images, DEFAULT_CACHE_BYTES).clean() {
        writeln!(out, "{}: removed", image.display())?;
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn swept(state: &Path) -> (ExitCode, String) {
        let mut out = Vec::new();
        let args = Args { state: state.to_owned(), images: state.join("no-images") };
        let code = run(&args, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn dead_sandboxes_are_released_and_broken_records_are_named() {
        let root = tempfile::tempdir().unwrap();
        let sandbox = |name: &str, record: &str| {
            let path = root.path().join("k8s.io").join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("state.json"), record).unwrap();
            path
        };
        let none = r#""qemu":null,"vsock":null,"net":null,"cgroup":null"#;
        let dead = sandbox("dead", &format!(r#"{{"shim":{{"pid":1,"start":1}},{none}}}"#));
        let (code, text) = swept(root.path());
        assert_eq!((code, text), (ExitCode::SUCCESS, format!("{}: released\n", dead.display())));
        assert!(!dead.exists());
        sandbox("broken", "{");
        let (code, text) = swept(root.path());
        assert!(code == ExitCode::FAILURE && text.contains("broken/state.json is not a record"), "{text}");
    }

    /// As after a power loss: /run is empty, and the disk is not.
    #[test]
    fn an_image_that_no_record_knows_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let image = |name: &str| {
            let path = root.path().join(name);
            std::fs::write(&path, "x").unwrap();
            path
        };
        let [left, used, shared] = ["own-1.erofs", "own-2.erofs", "abc.erofs"].map(image);
        let in_use = std::fs::File::open(&used).unwrap();
        in_use.lock_shared().unwrap();
        let args = Args { state: root.path().join("run"), images: root.path().to_owned() };
        let mut out = Vec::new();
        assert_eq!(run(&args, &mut out).unwrap(), ExitCode::SUCCESS);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{}: removed\n", left.display()));
        assert_eq!([left, used, shared].map(|path| path.exists()), [false, true, true]);
    }
}
