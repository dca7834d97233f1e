//! Carries an installation out: first what nobody sees yet ([`stage`]), then the switch and the engine's files ([`install`]).

use std::collections::BTreeMap;

use crate::bundle::{Bundle, image_file, sha256};
use crate::daemon::{Daemon, Runtimes, lost};
use crate::disk::{Disk, Fault};
use crate::dropin::{Erofs, Handler, Registration, registration, template};
use crate::engine::{Engine, Kind};
use crate::error::{Error, Result};
use crate::import::Edit;
use crate::instance::Instance;
use crate::record::Record;
use crate::root::Root;
use crate::uninstall::{remove_registration, sweep, take_back, unregister};
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
    record: Record,
    /// The engine that is to be told.
    pub engine: Engine,
    id: String,
    /// Whether there was no installation before.
    first: bool,
    /// The configuration files that are to be written, each with its text.
    configs: Vec<(String, String)>,
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
fn changed_by_hand(root: &Root, record: &Record, path: &str) -> Result<Option<String>> {
    Ok(root.text(path)?.filter(|own| !record.wrote(path, own.as_bytes())))
}

fn note(files: &mut BTreeMap<String, Vec<String>>, path: &str, text: &str) {
    let digests = files.entry(path.to_owned()).or_default();
    let digest = sha256(text.as_bytes());
    if !digests.contains(&digest) {
        digests.push(digest);
    }
}

fn make_parents(disk: &Disk<'_>, path: &str) -> Result<()> {
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

fn switch(
    disk: &Disk<'_>,
    staged: &mut Staged,
    handlers: &[Handler],
    erofs: Erofs,
    daemon: &dyn Daemon,
) -> Result<Installed> {
    let Staged { record, engine, id, configs, .. } = staged;
    let (root, instance) = (disk.root(), record.instance.clone());
    if record.engine != engine.kind && !record.handlers.is_empty() {
        unregister(disk, record, daemon)?;
    }
    record.engine = engine.kind;
    let template = match template(engine) {
        // Our own template, or our words in somebody's, are as good as not there.
        Some(path) => plain_text(root, record, &path)?,
        None => None,
    };
    let plain = plain_engine(engine, record)?;
    let wanted = registration(&plain, &instance, handlers, erofs, template.as_deref())?;
    let names: Vec<String> = handlers.iter().map(|handler| handler.name.clone()).collect();
    let is_told = record.handlers == names && is_in_place(root, record, &wanted)?;
    // What can be refused by a look is, before anything is changed.
    let had = if is_told { Runtimes::new() } else { look(root, record, &wanted, daemon)? };
    let before = Before::read(root, record, configs)?;
    let mut restarted = false;
    let outcome = turn(disk, record, id, configs).map_err(Stop::Failed).and_then(|()| {
        if is_told {
            return Ok(());
        }
        tell(disk, record, &wanted, &names, &had, daemon)?;
        restarted = true;
        start(disk, record, &had, names, daemon)
    });
    let Err(stop) = outcome else {
        let collected = collect(disk, &instance, id)?;
        return Ok(Installed { version: id.clone(), restarted, collected });
    };
    let back = before.put_back(disk, record, restarted, daemon);
    let engine = engine.kind.name();
    Err(match (stop, back) {
        // What cannot be put back is in the record; the first failure is what is told.
        (Stop::Failed(error), _) | (Stop::Refused(_), Err(error)) => error,
        (Stop::Refused(reason), Ok(None)) => Error::RolledBack { engine, reason },
        (Stop::Refused(reason), Ok(Some(then))) => Error::RollbackFailed { engine, reason, then },
    })
}

/// Why an installation does not come to its end.
enum Stop {
    /// A step of ours fails.
    Failed(Error),
    /// The engine does not work with what it is told; why.
    Refused(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Gives new pods a version, and its configuration just before.
fn turn(disk: &Disk<'_>, record: &mut Record, id: &str, configs: &[(String, String)]) -> Result<()> {
    let (root, current) = (disk.root(), record.instance.current());
    for (path, text) in configs {
        if changed_by_hand(root, record, path)?.is_none() && root.text(path)?.as_deref() != Some(text) {
            record.note_directories(root, path);
            note(&mut record.files, path, text);
            record.save(disk)?;
            make_parents(disk, path)?;
            disk.write(path, text.as_bytes(), 0o644)?;
        }
    }
    let target = format!("versions/{id}");
    if root.target(&current).as_deref() != Some(&target) || record.version.as_deref() != Some(id) {
        record.version = Some(id.to_owned());
        record.save(disk)?;
        disk.link(&current, &target)?;
    }
    Ok(())
}

/// A file's text without what is ours in it; `None` where nothing else is.
fn plain_text(root: &Root, record: &Record, path: &str) -> Result<Option<String>> {
    let Some(text) = root.text(path)? else { return Ok(None) };
    if record.wrote(path, text.as_bytes()) {
        return Ok(None);
    }
    without_edits(record, path, text).map(Some)
}

fn without_edits(record: &Record, path: &str, mut text: String) -> Result<String> {
    for edit in record.edits.iter().rev().filter(|edit| edit.path == path) {
        if let Some(plain) = edit.undo(&text)? {
            text = plain;
        }
    }
    Ok(text)
}

/// The engine as it was before us.
fn plain_engine(engine: &Engine, record: &Record) -> Result<Engine> {
    let mut plain = engine.clone();
    let path = engine.kind.main_file();
    if let Some(main) = &engine.main {
        if record.wrote(path, main.as_bytes()) {
            plain.main = None;
        } else {
            let text = without_edits(record, path, main.clone())?;
            if text != *main {
                plain.forget_imports(&text)?;
                plain.main = Some(text);
            }
        }
    }
    Ok(plain)
}

/// Whether all of it is there already, and nothing else of ours.
fn is_in_place(root: &Root, record: &Record, wanted: &Registration) -> Result<bool> {
    for (path, text) in &wanted.files {
        if root.text(path)?.as_deref() != Some(text) {
            return Ok(false);
        }
    }
    let no_more = record.registered.keys().all(|path| wanted.files.iter().any(|(wanted, _)| wanted == path));
    let edited = record.edits == wanted.edits
        && match wanted.edits.last() {
            None => true,
            Some(last) => root.text(&last.path)?.is_some_and(|text| sha256(text.as_bytes()) == last.after),
        };
    Ok(no_more && edited)
}

/// Sees that no file of the engine's that is to be written is somebody else's. Returns the runtimes that it has beside ours.
fn look(root: &Root, record: &Record, wanted: &Registration, daemon: &dyn Daemon) -> Result<Runtimes> {
    for (path, _) in &wanted.files {
        let foreign = root.bytes(path)?.is_some_and(|found| !record.wrote(path, &found));
        if foreign || root.is_link(path) {
            return Err(Error::Foreign { path: path.clone(), instance: record.instance.to_string() });
        }
    }
    let reason = |reason| Error::Daemon { engine: record.engine.name(), reason };
    let mut found = daemon.configured(record.engine).map_err(reason)?;
    found.retain(|name, _| !record.handlers.contains(name));
    Ok(found)
}

/// Writes the engine's files, and asks it what it reads.
fn tell(
    disk: &Disk<'_>,
    record: &mut Record,
    wanted: &Registration,
    names: &[String],
    had: &Runtimes,
    daemon: &dyn Daemon,
) -> std::result::Result<(), Stop> {
    let root = disk.root();
    record.unsettled = true;
    let new: Vec<String> = names.iter().filter(|name| !record.handlers.contains(name)).cloned().collect();
    record.handlers.extend(new);
    for (path, text) in &wanted.files {
        record.note_directories(root, path);
        note(&mut record.registered, path, text);
    }
    record.save(disk)?;
    // Imports go before their files, and files come before their import.
    let stale_edits: Vec<_> =
        record.edits.iter().filter(|edit| !wanted.edits.contains(edit)).cloned().collect();
    for edit in stale_edits.iter().rev() {
        take_out(disk, edit)?;
    }
    let stale: Vec<String> = record
        .registered
        .keys()
        .filter(|path| !wanted.files.iter().any(|(wanted, _)| wanted == *path))
        .cloned()
        .collect();
    for path in &stale {
        disk.remove(path)?;
        record.registered.remove(path);
    }
    record.edits.clone_from(&wanted.edits);
    record.save(disk)?;
    for (path, text) in &wanted.files {
        make_parents(disk, path)?;
        if root.text(path)?.as_deref() != Some(text) {
            disk.write(path, text.as_bytes(), 0o644)?;
        }
    }
    wanted.edits.iter().try_for_each(|edit| put_in(disk, edit))?;
    // k3s and rke2 read their template at the start, k0s its directory.
    if matches!(record.engine, Kind::Containerd | Kind::Crio) {
        let unread = |reason| Stop::Refused(format!("it cannot read it: {reason}"));
        let found = daemon.configured(record.engine).map_err(unread)?;
        if let Some(reason) = lost(had, &found, names) {
            return Err(Stop::Refused(reason));
        }
    }
    Ok(())
}

/// Starts the engine anew with what it was told.
fn start(
    disk: &Disk<'_>,
    record: &mut Record,
    had: &Runtimes,
    names: Vec<String>,
    daemon: &dyn Daemon,
) -> std::result::Result<(), Stop> {
    if let Some(reason) = trouble(record.engine, had, &names, daemon) {
        return Err(Stop::Refused(reason));
    }
    let mut settled = record.clone();
    (settled.handlers, settled.unsettled) = (names, false);
    settled.save(disk)?;
    *record = settled;
    Ok(())
}

/// Starts the engine anew; returns what is wrong with it then.
fn trouble(kind: Kind, had: &Runtimes, ours: &[String], daemon: &dyn Daemon) -> Option<String> {
    match daemon.restart(kind).and_then(|()| daemon.serving(kind)) {
        Err(reason) => Some(reason),
        Ok(found) => lost(had, &found, ours),
    }
}

/// What new pods and the engine had before, to be had again.
#[derive(Debug)]
struct Before {
    version: Option<String>,
    /// Where the link to it led.
    current: Option<String>,
    /// The configuration files, each with its text.
    configs: Vec<(String, Option<String>)>,
    files: BTreeMap<String, Vec<String>>,
    handlers: Vec<String>,
    edits: Vec<Edit>,
    registered: BTreeMap<String, Vec<String>>,
    /// The engine's files of ours, each with its text.
    texts: Vec<(String, Option<String>)>,
}

impl Before {
    fn read(root: &Root, record: &Record, configs: &[(String, String)]) -> Result<Self> {
        let text = |path: &String| Ok((path.clone(), root.text(path)?));
        Ok(Self {
            version: record.version.clone(),
            current: root.target(&record.instance.current()),
            configs: configs.iter().map(|(path, _)| text(path)).collect::<Result<_>>()?,
            files: record.files.clone(),
            handlers: record.handlers.clone(),
            edits: record.edits.clone(),
            registered: record.registered.clone(),
            texts: record.registered.keys().map(text).collect::<Result<_>>()?,
        })
    }

    /// Gives all of it back. Returns what is wrong with the engine then, which is started anew only where it was before.
    fn put_back(
        self,
        disk: &Disk<'_>,
        record: &mut Record,
        restarted: bool,
        daemon: &dyn Daemon,
    ) -> Result<Option<String>> {
        // Each is tried, whatever comes of the other.
        let (pods, engine) = (self.give_pods(disk, record), self.give_engine(disk, record));
        pods.and(engine)?;
        if restarted && let Some(reason) = trouble(record.engine, &Runtimes::new(), &self.handlers, daemon) {
            return Ok(Some(reason));
        }
        (record.handlers, record.unsettled) = (self.handlers, false);
        record.save(disk)?;
        Ok(None)
    }

    fn give_pods(&self, disk: &Disk<'_>, record: &mut Record) -> Result<()> {
        for (path, text) in &self.configs {
            // Somebody may have changed it by hand meanwhile.
            if changed_by_hand(disk.root(), record, path)?.is_none() {
                restore(disk, path, text.as_deref())?;
            }
        }
        let current = record.instance.current();
        match &self.current {
            Some(target) if disk.root().target(&current).as_ref() == Some(target) => {}
            Some(target) => disk.link(&current, target)?,
            None => disk.remove(&current)?,
        }
        record.files.clone_from(&self.files);
        record.version.clone_from(&self.version);
        record.save(disk)
    }

    fn give_engine(&self, disk: &Disk<'_>, record: &mut Record) -> Result<()> {
        if !record.unsettled {
            // It was told nothing; what somebody else has changed of ours is his.
            return Ok(());
        }
        remove_registration(disk, record)?;
        record.edits.clone_from(&self.edits);
        record.registered.clone_from(&self.registered);
        record.save(disk)?;
        self.texts.iter().try_for_each(|(path, text)| restore(disk, path, text.as_deref()))?;
        record.edits.iter().try_for_each(|edit| put_in(disk, edit))
    }
}

/// Gives a file its text again.
fn restore(disk: &Disk<'_>, path: &str, text: Option<&str>) -> Result<()> {
    match text {
        None => disk.remove(path),
        Some(text) if disk.root().text(path)?.as_deref() == Some(text) => Ok(()),
        Some(text) => {
            make_parents(disk, path)?;
            disk.write(path, text.as_bytes(), 0o644)
        }
    }
}

/// Puts words into a file, unless they are in it.
fn put_in(disk: &Disk<'_>, edit: &Edit) -> Result<()> {
    let text = disk.root().text(&edit.path)?.unwrap_or_default();
    if sha256(text.as_bytes()) == edit.after {
        return Ok(());
    }
    if sha256(text.as_bytes()) != edit.before {
        let reason = "it was changed while it was read".to_owned();
        return Err(Error::Syntax { path: edit.path.clone(), reason });
    }
    disk.rewrite(&edit.path, edit.apply(&text).as_bytes())
}

/// Takes words out of a file, if they are in it.
pub(crate) fn take_out(disk: &Disk<'_>, edit: &Edit) -> Result<()> {
    disk.forget_unfinished(&edit.path)?;
    let Some(text) = disk.root().text(&edit.path)? else { return Ok(()) };
    match edit.undo(&text)? {
        Some(plain) => disk.rewrite(&edit.path, plain.as_bytes()),
        None => Ok(()),
    }
}
