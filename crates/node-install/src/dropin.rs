//! What an engine is told of the runtimes, in its own form.
//!
//! containerd: `docs/cri/config.md`, `docs/snapshotters/erofs.md`. A drop-in has the schema of the main file: with another one
//! containerd loses settings of one of them without a word. With containerd 1, CRI's settings are in the main file
//! ([`Engine::replaces_plugins`]). CRI-O: `crio.conf(5)`, "CRIO.RUNTIME.RUNTIMES TABLE".

use std::fmt::Write as _;

use crate::engine::{self, Engine, Kind, Schema};
use crate::error::{Error, Result};
use crate::import::Edit;
use crate::instance::Instance;

/// How long containerd waits for `containerd-shim-coffer-v2 delete`; its own 5 s are less than a GPU's reset takes.
const CLEANUP: &str = "60s";
/// How what is written begins.
pub(crate) const HEAD: &str = "# Written by `coffer install`";
/// What containerd's main file imports for us: a pattern, which may match nothing.
pub(crate) const IMPORTED: &str = "/etc/containerd/conf.d/*.toml";

/// One handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name: what a RuntimeClass has as its `handler`.
    pub name: String,
    /// Its configuration file.
    pub config: String,
}

/// Whether containerd can make EROFS layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erofs {
    /// It cannot; the shim makes images of layers.
    No,
    /// It can.
    Yes,
    /// With their hash trees too (containerd 2.3).
    WithTrees,
}

/// What is written for an engine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// Files of our own.
    pub(crate) files: Vec<(String, String)>,
    /// Changes in a file that is somebody else's, each of the file with those before it.
    pub(crate) edits: Vec<Edit>,
}

/// What registers these handlers.
pub(crate) fn registration(
    engine: &Engine,
    instance: &Instance,
    handlers: &[Handler],
    erofs: Erofs,
    template: Option<&str>,
) -> Result<Registration> {
    let name = instance.file_name();
    let head = format!("{HEAD} ({instance}); `coffer uninstall` removes it.\n");
    let Some(schema) = engine.schema else {
        let path = format!("/etc/crio/crio.conf.d/50-{name}.conf");
        return Ok(Registration { files: vec![(path, head + &crio(instance, handlers))], edits: vec![] });
    };
    // containerd 1 has no such snapshotter.
    let erofs = if engine.replaces_plugins() { Erofs::No } else { erofs };
    let version = format!("version = {}\n", schema.number());
    let (cri, others) = (runtimes(schema, instance, handlers, erofs), others(erofs));
    let images = platforms(schema, handlers, erofs);
    let whole = format!("{head}{version}\n{cri}{images}{others}");
    match engine.kind {
        Kind::Crio | Kind::Containerd => {
            let path = format!("/etc/containerd/conf.d/{name}.toml");
            let file = engine.kind.main_file();
            let (own, in_main) = if engine.replaces_plugins() {
                let tables = format!("{}{}\n", default_runtime(engine)?, cri.trim_end());
                (format!("{head}{version}\n{others}"), Some(tables))
            } else {
                (whole, None)
            };
            let mut files = vec![(path, own)];
            let Some(main) = &engine.main else {
                let tables = in_main.map(|tables| format!("\n{tables}")).unwrap_or_default();
                let text = format!("{head}{version}imports = [{IMPORTED:?}]\n{tables}");
                files.push((file.to_owned(), text));
                return Ok(Registration { files, edits: vec![] });
            };
            let missing = if engine.has_version { "" } else { &version };
            let mut edits = Vec::new();
            if !engine.imports(IMPORTED) {
                edits.push(Edit::import(file, main, IMPORTED, missing)?);
            } else if in_main.is_some() && !missing.is_empty() {
                // A file with tables of plugins has to say its version.
                edits.push(Edit::prepend(file, main, missing));
            }
            if let Some(tables) = in_main {
                let text = edits.iter().fold(main.clone(), |text, edit| edit.apply(&text));
                edits.push(Edit::append(file, &text, &format!("\n{head}{tables}")));
            }
            Ok(Registration { files, edits })
        }
        Kind::K0s => {
            let dir = "/etc/k0s/containerd.d";
            let mut files = vec![(format!("{dir}/{name}.toml"), format!("{head}{version}\n{cri}"))];
            files.push((format!("{dir}/{name}-layers.toml"), format!("{head}{version}\n{others}")));
            Ok(Registration { files, edits: vec![] })
        }
        Kind::K3s | Kind::Rke2 => {
            let main = engine.kind.main_file();
            let base = if schema == Schema::V2 {
                "config".to_owned()
            } else {
                format!("config-v{}", schema.number())
            };
            let dir = main.trim_end_matches("config.toml");
            if engine.imports(&format!("{dir}{base}.toml.d/*.toml")) {
                return Ok(Registration {
                    files: vec![(format!("{dir}{base}.toml.d/{name}.toml"), whole)],
                    edits: vec![],
                });
            }
            let path = format!("{dir}{base}.toml.tmpl");
            let tables = format!("\n{head}{cri}{images}{others}");
            match template {
                None => {
                    let text = format!("{{{{ template \"base\" . }}}}\n{tables}");
                    Ok(Registration { files: vec![(path, text)], edits: vec![] })
                }
                Some(text) => {
                    Ok(Registration { files: vec![], edits: vec![Edit::append(&path, text, &tables)] })
                }
            }
        }
    }
}

/// Where k3s and rke2 have a template for their file, in this schema.
pub(crate) fn template(engine: &Engine) -> Option<String> {
    let (Kind::K3s | Kind::Rke2, Some(schema)) = (engine.kind, engine.schema) else { return None };
    let dir = engine.kind.main_file().trim_end_matches("config.toml");
    let base =
        if schema == Schema::V2 { "config".to_owned() } else { format!("config-v{}", schema.number()) };
    Some(format!("{dir}{base}.toml.tmpl"))
}

fn shim(instance: &Instance) -> String {
    format!("{}/bin/containerd-shim-coffer-v2", instance.current())
}

/// The runtime that containerd 1 has by default, and has no more as soon as its file names another one.
fn default_runtime(engine: &Engine) -> Result<&'static str> {
    let main = engine.main.as_deref().unwrap_or_default();
    let path = engine.kind.main_file().to_owned();
    let there = engine::runtimes(main).map_err(|reason| Error::Syntax { path, reason })?;
    Ok(if there.is_empty() {
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\n"
    } else {
        ""
    })
}

fn runtimes(schema: Schema, instance: &Instance, handlers: &[Handler], erofs: Erofs) -> String {
    let plugin =
        if schema == Schema::V2 { "io.containerd.grpc.v1.cri" } else { "io.containerd.cri.v1.runtime" };
    let mut text = String::new();
    for Handler { name, config } in handlers {
        let table = format!("plugins.\"{plugin}\".containerd.runtimes.{name}");
        let _ = writeln!(text, "[{table}]");
        let _ = writeln!(text, "runtime_type = \"io.containerd.coffer.v2\"");
        let _ = writeln!(text, "runtime_path = {:?}", shim(instance));
        // Else a privileged pod's specification has each device of the host.
        let _ = writeln!(text, "privileged_without_host_devices = true");
        let _ = writeln!(text, "pod_annotations = [\"io.katacontainers.*\", \"cdi.k8s.io/*\"]");
        if erofs != Erofs::No {
            let _ = writeln!(text, "snapshotter = \"erofs\"");
        }
        let _ = writeln!(text, "[{table}.options]\nConfigPath = {config:?}\n");
    }
    text
}

/// Which snapshotter an image is pulled into for a handler; containerd 2.
fn platforms(schema: Schema, handlers: &[Handler], erofs: Erofs) -> String {
    if schema == Schema::V2 || erofs == Erofs::No {
        return String::new();
    }
    handlers.iter().fold(String::new(), |mut text, Handler { name, .. }| {
        let table = format!("plugins.\"io.containerd.cri.v1.images\".runtime_platforms.{name}");
        let _ = writeln!(text, "[{table}]\nsnapshotter = \"erofs\"\n");
        text
    })
}

/// What is not CRI's.
fn others(erofs: Erofs) -> String {
    let mut text = format!("[timeouts]\n\"io.containerd.timeout.shim.cleanup\" = {CLEANUP:?}\n");
    if erofs == Erofs::No {
        return text;
    }
    text.push_str(
        "\n[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"erofs\", \"walking\"]\n\n\
         # Same layer, same image: without the options the time of the conversion is in it.\n\
         [plugins.\"io.containerd.differ.v1.erofs\"]\n\
         mkfs_options = [\"-T0\", \"--mkfs-time\", \"--sort=none\"]\n",
    );
    if erofs == Erofs::WithTrees {
        text.push_str("enable_dmverity = true\n");
    }
    text
}

fn crio(instance: &Instance, handlers: &[Handler]) -> String {
    handlers.iter().fold(String::new(), |mut text, Handler { name, config }| {
        let _ = writeln!(text, "\n[crio.runtime.runtimes.{name}]");
        let _ = writeln!(text, "runtime_path = {:?}", shim(instance));
        let _ = writeln!(text, "runtime_type = \"vm\"");
        let _ = writeln!(text, "runtime_root = \"/run/vc\"");
        let _ = writeln!(text, "runtime_config_path = {config:?}");
        let _ = writeln!(text, "privileged_without_host_devices = true");
        text
    })
}
