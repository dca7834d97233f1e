//! Whether containerd knows the runtime.

use crate::check::{Class, Fault, Finding, Step};
use crate::containerd::{Handler, Settings};
use crate::host::{Host, has_erofs};

/// What containerd finds `containerd-shim-coffer-v2` by.
const SHIM: &str = "containerd-shim-coffer-v2";

pub(super) const CONTAINERD: Step = Step {
    name: "containerd",
    title: "containerd's configuration",
    run: settings,
    then: &[
        Step { name: "containerd.shim", title: "containerd's shim", run: shim, then: &[] },
        Step {
            name: "containerd.handler",
            title: "containerd's handler",
            run: |host| handler(host, Class::Plain),
            then: &[Step { name: "containerd.erofs", title: "snapshotter", run: erofs, then: &[] }],
        },
    ],
};

fn settings(host: &Host<'_>) -> Finding {
    match Settings::read(host.root) {
        Ok(Some(settings)) => match settings.trouble.first() {
            None => Finding::Ok(format!("{}, version {}", settings.path, settings.version)),
            Some(trouble) => Finding::warning(
                Fault::Setup,
                trouble,
                format!("write every file in version {}, the main file's", settings.version),
            ),
        },
        Ok(None) => Finding::failed(
            Fault::Setup,
            "there is no configuration of containerd, k3s, rke2 or k0s",
            "install one of them, and run `coffer install`; CRI-O is not looked at",
        ),
        Err(error) => Finding::failed(Fault::Setup, error, "correct the file"),
    }
}

fn shim(host: &Host<'_>) -> Finding {
    let handlers = Settings::read(host.root).ok().flatten().unwrap_or_default().handlers;
    let named =
        handlers.into_iter().find(|handler| handler.is_ours() && host.root.exists(&handler.runtime_path));
    if let Some(Handler { runtime_path, .. }) = named.filter(|handler| !handler.runtime_path.is_empty()) {
        return Finding::Ok(runtime_path);
    }
    match host.program(SHIM) {
        Some(path) => Finding::Ok(path.display().to_string()),
        None => Finding::warning(
            Fault::Setup,
            format!("there is no {SHIM} in PATH"),
            "put it into containerd's PATH, or name it by runtime_path",
        ),
    }
}

/// Whether the class has a handler.
pub(super) fn handler(host: &Host<'_>, class: Class) -> Finding {
    let settings = match Settings::read(host.root) {
        Ok(Some(settings)) => settings,
        Ok(None) | Err(_) => {
            let evidence = "containerd's configuration cannot be read";
            return Finding::unknown(Fault::Setup, evidence, "see the check of containerd's configuration");
        }
    };
    let fix = if settings.is_generated() {
        format!("run `coffer install`: {} is made anew at each start", settings.path)
    } else {
        format!(
            "add [plugins.'{}'.containerd.runtimes.{class}] with runtime_type = \"io.containerd.coffer.v2\" to {}, \
             and restart containerd",
            settings.plugin(),
            settings.path
        )
    };
    match settings.handlers.iter().find(|handler| handler.name == class.name()) {
        Some(handler) if handler.is_ours() => found(handler, &settings),
        Some(handler) => {
            let evidence = format!("handler {class} is of type {:?}", handler.runtime_type);
            Finding::warning(Fault::Setup, evidence, fix)
        }
        None => Finding::warning(Fault::Setup, format!("containerd has no handler {class}"), fix),
    }
}

fn found(handler: &Handler, settings: &Settings) -> Finding {
    if handler.automatic && !settings.imports_drop_ins {
        let fix = format!(
            "add imports = [\"/etc/containerd/conf.d/*.toml\"] at the beginning of {}",
            settings.path
        );
        let evidence = format!("{} is read by containerd 2.2 and newer only", handler.path);
        return Finding::warning(Fault::Setup, evidence, fix);
    }
    Finding::Ok(format!("handler {} in {}", handler.name, handler.path))
}

/// With another snapshotter an image of every layer is built; it works, and costs time and space.
fn erofs(host: &Host<'_>) -> Finding {
    let Ok(Some(settings)) = Settings::read(host.root) else {
        return Finding::NotApplicable(String::new());
    };
    let ours: Vec<_> = settings.handlers.iter().filter(|handler| handler.is_ours()).collect();
    if ours.is_empty() {
        return Finding::NotApplicable("no handler is Coffer's".to_owned());
    }
    let names = |is_erofs: bool| {
        let names = ours.iter().filter(|h| (h.snapshotter == "erofs") == is_erofs).map(|h| h.name.as_str());
        names.collect::<Vec<_>>()
    };
    let (erofs, others) = (names(true), names(false));
    if !erofs.is_empty() && !has_erofs(host.root) {
        let evidence = format!(
            "{}: containerd leaves erofs out, which is not in /proc/filesystems, and no pod starts",
            erofs.join(", ")
        );
        return Finding::failed(
            Fault::Kernel,
            evidence,
            "modprobe erofs, name it in a file of /etc/modules-load.d, and restart containerd",
        );
    }
    if !others.is_empty() {
        let evidence =
            format!("{}: not erofs, so each image is built anew as one EROFS file", others.join(", "));
        return Finding::warning(Fault::Setup, evidence, "set snapshotter = \"erofs\" for the handler");
    }
    if !settings.differs.iter().any(|differ| differ == "erofs") {
        return Finding::warning(
            Fault::Setup,
            "erofs without its differ: each layer is unpacked first, and made an EROFS image then",
            "set default = [\"erofs\", \"walking\"] in [plugins.'io.containerd.service.v1.diff-service']",
        );
    }
    Finding::Ok("erofs, with its differ".to_owned())
}
