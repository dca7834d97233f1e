//! `coffer uninstall`.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use node_install::{Lock, uninstall};

use super::daemon::Engine;
use super::install::{explained, line};
use super::{Place, pause};

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
The container engine loses the handlers first and is started anew, then the files go, and the node is as it was before the
installation. Configuration that was changed by hand stays, and is named. While pods run, nothing is done: delete them first,
or use --wait.";

/// How often it is looked whether pods still run.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `coffer uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Take the handlers away although pods run, and wait so many seconds for the pods' end
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    #[command(flatten)]
    place: Place,
}

/// Takes an installation away.
///
/// # Errors
/// Pods run, or something cannot be taken back; running it again goes on.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let (root, instance) = (args.place.root(), &args.place.instance);
    let _lock = Lock::take(&root).map_err(explained)?;
    let daemon = Engine::new(&root);
    let end = Instant::now() + Duration::from_secs(args.wait.unwrap_or_default());
    let mut wait = |_: usize| {
        pause(PAUSE);
        Instant::now() < end
    };
    let wait: Option<&mut dyn FnMut(usize) -> bool> =
        if args.wait.is_some() { Some(&mut wait) } else { None };
    let removed = uninstall(&root, instance, &daemon, wait).map_err(explained)?;
    if !removed.was_there {
        line(out, "nothing", &format!("the instance {instance} is not installed"))?;
        return Ok(());
    }
    for path in &removed.kept {
        line(out, "kept", &format!("{path}, which was changed by hand"))?;
    }
    line(out, "uninstalled", &format!("instance {instance}"))?;
    Ok(())
}
