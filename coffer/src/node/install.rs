//! `coffer install`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use node_install::{
    Bundle, Daemon, Erofs, Error, Handler, Kind, Kubelet, Lock, Request, Root, install, stage,
};

use super::classes::{class_of, configurations, examined, gpus, stopped};
use super::daemon::{Engine, own_bundle, program_in_path};
use super::{Engine as Named, Place};

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
Programs and guest images go to /opt/coffer/versions and /opt/coffer/images, each class's configuration to /etc/coffer. The
container engine is told of the classes that can work on this node, in a file of its own, and started anew. Where it does not
come back with all that it had, everything is put back. Run again it changes nothing; with a newer bundle it is an upgrade:
pods that run keep their version.";

/// Arguments of `coffer install`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// What to install [default: the bundle that this program is part of]
    #[arg(long, value_name = "DIRECTORY")]
    bundle: Option<PathBuf>,
    /// The node's container engine [default: the one that is found]
    #[arg(long, value_enum)]
    engine: Option<Named>,
    /// A runtime class that must work here, several times for several [default: all that can work]
    #[arg(long = "class", value_name = "CLASS", value_parser = ["coffer", "coffer-snp", "coffer-tdx"])]
    classes: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// Installs Coffer on the node.
///
/// # Errors
/// Nothing is half done then; the text says what was put back.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let (root, instance) = (args.place.root(), &args.place.instance);
    let directory = args.bundle.clone().or_else(own_bundle);
    let directory = directory.context("this program is part of no bundle: name one with --bundle")?;
    let bundle = Bundle::read(&directory).map_err(explained)?;
    let _lock = Lock::take(&root).map_err(explained)?;
    let daemon = Engine::new(&root);
    let classes = configurations(&root, &bundle, instance);
    let request =
        Request { instance, engine: args.engine.map(Kind::from), bundle: &bundle, classes: &classes };
    let staged = stage(&root, &request, &daemon).map_err(explained)?;
    let kind = staged.engine.kind;
    line(out, "bundle", &format!("{}, {} files", bundle.id(), bundle.files().len()))?;
    let version = daemon.version(kind);
    let shown = version.map(|(major, minor)| format!(" {major}.{minor}")).unwrap_or_default();
    line(out, "engine", &format!("{kind}{shown}"))?;
    let (mut handlers, mut reasons, mut of_gpus) = (Vec::new(), Vec::new(), None);
    for (name, check) in &staged.checks {
        let Some(class) = class_of(name) else { continue };
        let wanted = args.classes.is_empty() || args.classes.iter().any(|wanted| wanted == name);
        let reason = if wanted {
            let report = examined(&root, check);
            // They are the same for each class.
            of_gpus = of_gpus.or_else(|| gpus(&report));
            stopped(&report, class)
        } else {
            Some("not asked for".to_owned())
        };
        match reason {
            None => handlers.push(Handler { name: instance.handler(name), config: instance.config(name) }),
            Some(reason) => {
                line(out, &instance.handler(name), &format!("left out: {reason}"))?;
                reasons.push((*name, reason));
            }
        }
    }
    if let Some(of_gpus) = of_gpus {
        line(out, "GPUs", &of_gpus)?;
    }
    let missing = args.classes.iter().find_map(|wanted| reasons.iter().find(|(name, _)| name == wanted));
    let refusal = match missing {
        _ if handlers.is_empty() => {
            let reasons: Vec<_> = reasons.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
            Some(explained(Error::NothingToRegister { reasons: reasons.join("; ") }))
        }
        Some((name, reason)) => Some(anyhow::anyhow!("the class {name} cannot work on this node: {reason}")),
        None => None,
    };
    if let Some(refusal) = refusal {
        staged.abandon(&root, &daemon).map_err(explained)?;
        return Err(refusal);
    }
    for path in &staged.kept {
        line(out, "kept", &format!("{path}, which was changed by hand"))?;
    }
    let erofs = erofs(&root, kind, version, out)?;
    let installed = install(&root, staged, &handlers, erofs, &daemon).map_err(explained)?;
    for handler in &handlers {
        line(out, &handler.name, &format!("registered, configured by {}", handler.config))?;
    }
    if installed.restarted {
        line(out, "restarted", &format!("{kind}; it serves all that it had, and these"))?;
    }
    for version in &installed.collected {
        line(out, "removed", &format!("version {version}, which no pod used"))?;
    }
    if let Some(advice) = Kubelet::read(&root).map_err(explained)?.advice() {
        line(out, "kubelet", &advice)?;
    }
    Ok(())
}

/// Whether containerd makes the layers; else the shim does, at each image's first container.
fn erofs(root: &Root, kind: Kind, version: Option<(u32, u32)>, out: &mut impl Write) -> Result<Erofs> {
    if kind == Kind::Crio {
        return Ok(Erofs::No);
    }
    match snapshotter(root, version) {
        Ok(erofs) => Ok(erofs),
        Err(reason) => {
            line(out, "layers", &format!("made by the shim at each image's first container: {reason}"))?;
            Ok(Erofs::No)
        }
    }
}

/// What containerd of this version can do with EROFS on this node, or why nothing.
fn snapshotter(root: &Root, version: Option<(u32, u32)>) -> std::result::Result<Erofs, &'static str> {
    let Some(version) = version.filter(|version| *version >= (2, 1)) else {
        return Err("containerd is older than 2.1");
    };
    if !readiness::has_erofs(&readiness::Root::new(root.directory())) {
        return Err(
            "the kernel has no EROFS, or has not loaded it, and containerd loads nothing: `modprobe erofs`, name it in a \
             file of /etc/modules-load.d, and run this again",
        );
    }
    if program_in_path(root, "mkfs.erofs").is_none() {
        return Err("there is no mkfs.erofs: install erofs-utils 1.8 or newer, and run this again");
    }
    Ok(if version >= (2, 3) { Erofs::WithTrees } else { Erofs::Yes })
}

pub(super) fn line(out: &mut impl Write, what: &str, text: &str) -> io::Result<()> {
    writeln!(out, "{what:<12} {text}")
}

/// With the word under which docs/node.md explains it.
pub(super) fn explained(error: Error) -> anyhow::Error {
    let code = error.code();
    anyhow::Error::new(error).context(format!("[{code}]"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn layers_are_containerds_where_it_can_make_them_now() {
        const LOADED: &str = "nodev\tproc\n\text4\n\terofs\n";
        let cases = [
            (Some((1, 7)), LOADED, true, Err("older than 2.1")),
            (None, LOADED, true, Err("older than 2.1")),
            (Some((2, 1)), LOADED, true, Ok(Erofs::Yes)),
            (Some((2, 3)), LOADED, true, Ok(Erofs::WithTrees)),
            (Some((2, 3)), LOADED, false, Err("erofs-utils")),
            // A module that nobody has loaded, and one of another name.
            (Some((2, 1)), "\text4\n", true, Err("modprobe erofs")),
            (Some((2, 1)), "\terofs2\n", true, Err("modprobe erofs")),
        ];
        for (version, filesystems, mkfs, wanted) in cases {
            let dir = tempfile::tempdir().unwrap();
            let write = |path: &str, text: &str| {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            };
            write("proc/filesystems", filesystems);
            write("proc/sys/kernel/osrelease", "6.12.0\n");
            write("lib/modules/6.12.0/modules.dep", "kernel/fs/erofs/erofs.ko.xz:\n");
            if mkfs {
                write("usr/bin/mkfs.erofs", "");
            }
            let found = snapshotter(&Root::new(dir.path()), version);
            match (found, wanted) {
                (Err(reason), Err(words)) => assert!(reason.contains(words), "{reason}"),
                (found, wanted) => assert_eq!(found, wanted, "{version:?} {filesystems:?}"),
            }
        }
    }
}
