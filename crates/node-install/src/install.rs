//! Carries an installation out: first what nobody sees yet ([`stage`]), then the switch ([`install`]).

use crate::bundle::{Bundle, image_file};
use crate::daemon::Daemon;
use crate::disk::{Disk, Fault};
use crate::dropin::{Erofs, Handler};
use crate::engine::{Engine, Kind};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::record::Record;
use crate::root::Root;
use crate::switch::switch;
use crate::uninstall::{sweep, take_back, unregister};
use crate::versions::{collect, has_content};

/// What is to be installed.
#[derive(Debug)]
pub struct Request<'a> {
    /// Whose installation.
    pub instance: &'a Instance,
    /// The engine to be told; `None` finds the node's.
    pub engine: Option<Kind>,
    /// The bundle.
    pub bundle: &'a Bundle,
    /// For each runtime class by its name: the text of its configuration file.
    pub classes: &'a [(&'static str, String)],
}

/// What is in place, unseen by the engine.
#[derive(Debug)]
pub struct Staged {
    pub(crate) record: Record,
    /// The engine that is to be told.
    pub engine: Engine,
    pub(crate) id: String,
    /// Whether there was no installation before.
    first: bool,
    /// The configuration files that are to be written, each with its text.
    pub(crate) configs: Vec<(String, String)>,
    /// For each class: the configuration to examine the node with, which names the new version's files.
    pub checks: Vec<(&'static str, String)>,
    /// Configuration files that somebody has changed, and that stay.
    pub kept: Vec<String>,
}

/// How an installation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The version that new pods get.
    pub version: String,
    /// Whether the engine was started anew.
    pub restarted: bool,
    /// Versions that nobody used any more.
    pub collected: Vec<String>,
}

/// Puts the bundle in place, in a directory of its own version. Pods and the engine see nothing of it. What a failed first try
/// has brought is taken away again.
///
/// # Errors
/// The engine's configuration cannot be read, a name is taken, or a file cannot be written.
pub fn stage(root: &Root, request: &Request<'_>, daemon: &dyn Daemon) -> Result<Staged> {
    stage_on(&Disk::new(root, Fault::None), request, daemon)
}

/// Tells the engine of the handlers, and has new pods use the new version.
///
/// # Errors
/// The engine refuses it, or loses a runtime for it, or a file cannot be written. The engine has its old configuration back
/// then, and new pods their old version with its configuration.
pub fn install(
    root: &Root,
    staged: Staged,
    handlers: &[Handler],
    erofs: Erofs,
    daemon: &dyn Daemon,
) -> Result<Installed> {
    install_on(&Disk::new(root, Fault::None), staged, handlers, erofs, daemon)
}

impl Staged {
    /// Takes away what was brought, where it is not to be installed.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn abandon(mut self, root: &Root, daemon: &dyn Daemon) -> Result<()> {
        let disk = Disk::new(root, Fault::None);
        match &self.record.version {
            None => take_back(&disk, &mut self.record, daemon).map(|_| ()),
            Some(version) => collect(&disk, &self.record.instance, version).map(|_| ()),
        }
    }
}

pub(crate) fn stage_on(disk: &Disk<'_>, request: &Request<'_>, daemon: &dyn Daemon) -> Result<Staged> {
    let (root, instance) = (disk.root(), request.instance);
    for directory in [instance.prefix(), instance.etc()] {
        if root.is_link(&directory) {
            return Err(Error::Link { path: directory });
        }
    }
    let found = Record::read(root, instance)?;
    let first = found.is_none();
    let record = match found {
        Some(mut record) => {
            if record.unsettled {
                // Somebody was killed on the way: the engine's files may be what it cannot read.
                unregister(disk, &mut record, daemon)?;
            }
            record
        }
        None => {
            for name in ["versions", "images", "current"] {
                let path = format!("{}/{name}", instance.prefix());
                if root.has_entry(&path) {
                    return Err(Error::Foreign { path, instance: instance.to_string() });
                }
            }
            sweep(disk, instance)?;
            let kind = find(root, request, daemon)?.kind;
            nothing_is_taken(request, kind, daemon, &[])?;
            Record::create(disk, instance, kind)?
        }
    };
    // Only now, for what a killed installer has told it is no part of it.
    let engine = find(root, request, daemon)?;
    if !first {
        nothing_is_taken(request, engine.kind, daemon, &record.handlers)?;
    }
    let staged = bring(disk, request, &record);
    let Brought { configs, checks, kept } = or_take_back(disk, first, &record, daemon, staged)?;
    Ok(Staged { record, engine, id: request.bundle.id().to_owned(), first, configs, checks, kept })
}

fn find(root: &Root, request: &Request<'_>, daemon: &dyn Daemon) -> Result<Engine> {
    let found = Engine::find(root, request.engine, |kind| daemon.default_schema(kind))?;
    Ok(Engine { version: daemon.version(found.kind), ..found })
}

/// Hands an outcome on; a failed first try is undone before.
fn or_take_back<T>(
    disk: &Disk<'_>,
    first: bool,
    record: &Record,
    daemon: &dyn Daemon,
    outcome: Result<T>,
) -> Result<T> {
    if outcome.is_err() && first {
        // What cannot be removed now is in the record; the first failure is what is told.
        let _ = take_back(disk, &mut record.clone(), daemon);
    }
    outcome
}

/// Whether no handler's name is somebody else's.
fn nothing_is_taken(request: &Request<'_>, kind: Kind, daemon: &dyn Daemon, ours: &[String]) -> Result<()> {
    let reason = |reason| Error::Daemon { engine: kind.name(), reason };
    let there = daemon.configured(kind).map_err(reason)?;
    for (class, _) in request.classes {
        let handler = request.instance.handler(class);
        if let Some(found) = there.get(&handler).filter(|_| !ours.contains(&handler)) {
            return Err(Error::Taken { engine: kind.name(), handler, kind: found.clone() });
        }
    }
    Ok(())
}

#[derive(Default)]
struct Brought {
    configs: Vec<(String, String)>,
    checks: Vec<(&'static str, String)>,
    kept: Vec<String>,
}

/// Copies the bundle, with the configuration to examine the node with beside it.
fn bring(disk: &Disk<'_>, request: &Request<'_>, record: &Record) -> Result<Brought> {
    let (root, instance, bundle) = (disk.root(), request.instance, request.bundle);
    let prefix = instance.prefix();
    let version = format!("{prefix}/versions/{}", bundle.id());
    let images = bundle.images();
    for file in bundle.files() {
        let path = match image_file(&file.path) {
            Some((name, inside)) => format!("{prefix}/images/{}/{inside}", images[name]),
            None => format!("{version}/{}", file.path),
        };
        if !has_content(root, &path, &file.sha256) {
            make_parents(disk, &path)?;
            disk.copy(&bundle.source(file), &path, if file.executable { 0o755 } else { 0o644 })?;
            if !has_content(root, &path, &file.sha256) {
                return Err(bundle.changed(file));
            }
        }
    }
    for (name, digest) in &images {
        let (path, target) =
            (format!("{version}/share/images/{name}"), format!("../../../../images/{digest}"));
        if root.target(&path).as_deref() != Some(target.as_str()) {
            make_parents(disk, &path)?;
            disk.link(&path, &target)?;
        }
    }
    let mut brought = Brought::default();
    for (class, text) in request.classes {
        let path = instance.config(class);
        let text = match changed_by_hand(root, record, &path)? {
            Some(own) => {
                brought.kept.push(path);
                own
            }
            None => {
                brought.configs.push((path, text.clone()));
                text.clone()
            }
        };
        let check = format!("{version}/check/{class}.toml");
        let text = text.replace(&instance.current(), &version);
        make_parents(disk, &check)?;
        if root.text(&check)?.as_deref() != Some(&text) {
            disk.write(&check, text.as_bytes(), 0o644)?;
        }
        brought.checks.push((*class, check));
    }
    Ok(brought)
}

/// The text of a file that no installation has written.
pub(crate) fn changed_by_hand(root: &Root, record: &Record, path: &str) -> Result<Option<String>> {
    Ok(root.text(path)?.filter(|own| !record.wrote(path, own.as_bytes())))
}

pub(crate) fn make_parents(disk: &Disk<'_>, path: &str) -> Result<()> {
    crate::record::missing(disk.root(), path).iter().try_for_each(|directory| disk.make_directory(directory))
}

pub(crate) fn install_on(
    disk: &Disk<'_>,
    mut staged: Staged,
    handlers: &[Handler],
    erofs: Erofs,
    daemon: &dyn Daemon,
) -> Result<Installed> {
    let outcome = switch(disk, &mut staged, handlers, erofs, daemon);
    or_take_back(disk, staged.first, &staged.record, daemon, outcome)
}
