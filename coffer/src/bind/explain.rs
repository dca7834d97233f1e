//! What is bound, what is left to the host, and why.

use std::io::{self, Write};

use agent_policy::is_on_scratch;
use measurement::initdata::InitData;
use pod_manifest::spec::{Container, PodSpec, ValueFrom, Volume};
use pod_manifest::yaml::{Path, Step};
use pod_manifest::{Names, Pod, Template};
use shared_types::ScratchSize;

use super::seal::{Seal, Sealed, containers};

/// What the node's configuration gives a VM whose pod has no limit.
const DEFAULT_MEMORY: &str = "the node's default, 2048 MiB unless its configuration says otherwise";

/// What a pod leaves open, each with its field.
pub(super) fn notes(
    spec: &PodSpec,
    pod: &Pod,
    class: &str,
    template: &Template,
    note: &mut dyn FnMut(Path, String),
) {
    let at = Path::of;
    if !template.is_faithful() {
        let kind = &template.owner.kind;
        note(
            Path::default(),
            format!(
                "a {kind}'s controller may add to this pod, and the guest would refuse what is added: then bind what it \
                 makes (`kubectl get pod -o yaml`)"
            ),
        );
    }
    match class {
        "coffer-snp" => {}
        "coffer-tdx" => note(
            at("spec.runtimeClassName"),
            "RTMR0 is not covered without the ACPI tables of the pod's VM (`coffer measure acpi`)".to_owned(),
        ),
        _ => note(
            at("spec.runtimeClassName"),
            format!(
                "the class {class} is not known to be of confidential VMs: in a plain VM nothing vouches for the policy"
            ),
        ),
    }
    if pod.limits.memory.whole() == 0 {
        let gpus = pod.limits.gpus.whole();
        let with = if gpus > 0 { format!(" for {gpus} GPUs") } else { String::new() };
        note(at("spec.containers"), format!("no memory limit{with}: the VM has {DEFAULT_MEMORY}"));
    }
    if pod.limits.cpu.milli() == 0 {
        note(at("spec.containers"), "no CPU limit: the VM has the node's default number of vCPUs".to_owned());
    }
    if spec.spec.automount_service_account_token != Some(false) {
        note(
            at("spec"),
            "a token of the service account comes from the host, which knows it: automountServiceAccountToken: false leaves \
             it out"
                .to_owned(),
        );
    }
    for (index, volume) in spec.spec.volumes.iter().enumerate() {
        if volume.secret.is_some() {
            let path = at("spec.volumes").then(Step::Item(index));
            note(
                path,
                format!(
                    "the secret volume {} comes from the host, which can read and change it",
                    volume.name
                ),
            );
        }
    }
    if !spec.spec.init_containers.is_empty() {
        note(
            at("spec.initContainers"),
            "that each init container ran, in its order, is bound; that it succeeded is the host's word"
                .to_owned(),
        );
    }
    for (path, container) in containers(spec) {
        of_container(&path, container, note);
    }
}

fn of_container(path: &Path, container: &Container, note: &mut dyn FnMut(Path, String)) {
    for (index, variable) in container.env.iter().enumerate() {
        let from = variable.value_from.as_ref();
        if from.is_some_and(|from| from.secret_key_ref.is_some()) {
            let path = path.join(&Path::of("env")).then(Step::Item(index));
            note(
                path,
                format!("the secret in {} comes from the host, which can read and change it", variable.name),
            );
        }
    }
    let is_set = |name: &str| {
        container.env.iter().any(|variable| variable.name == name) || !container.env_from.is_empty()
    };
    let texts = [("command", &container.command), ("args", &container.args)];
    for (field, texts) in texts {
        for (index, text) in texts.iter().enumerate() {
            for name in references(text).filter(|name| !is_set(name) && !name.contains("_SERVICE_")) {
                let path = path.then(Step::field(field)).then(Step::Item(index));
                note(path, format!("nothing in the manifest defines $({name}): it stays as it is written"));
            }
        }
    }
    for name in container.resources.others.iter().filter(|name| name.starts_with("hugepages-")) {
        note(path.then(Step::field("resources")), format!("{name}: the guest has no huge pages set aside"));
    }
}

/// Names in `$(NAME)`; `$$` is a dollar sign.
fn references(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let dollar = rest.find('$')?;
            let after = &rest[dollar + 1..];
            rest = after.strip_prefix('$').unwrap_or(after);
            if let Some((name, tail)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
                rest = tail;
                return Some(name);
            }
        }
    })
}

type Row = (String, String, &'static str, String);

const BOUND: &str = "bound";
const HOST: &str = "the host's";

/// Prints the table of one pod.
pub(super) fn print(
    place: &str,
    template: &Template,
    class: &str,
    sealed: &Sealed,
    seal: &Seal<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    let Sealed { spec, images, initdata, .. } = sealed;
    let name = template.owner.name.as_deref().unwrap_or("(without a name)");
    writeln!(out, "{} {name}, class {class} ({place})", template.owner.kind)?;
    table(&of_pod(spec, initdata, seal), out)?;
    for (_, container) in containers(spec) {
        writeln!(out, "  container {}", container.name)?;
        let layers = images.get(&container.name).map_or(0, |resolved| resolved.image.layers.len());
        let content = if seal.pulled {
            "pulled by the guest, by its digest".to_owned()
        } else {
            format!("{layers} layers by their root hashes")
        };
        table(&rows(container, spec, content), out)?;
    }
    writeln!(out)
}

fn table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    for (what, value, whose, why) in rows {
        let value: String = value.chars().filter(|c| !c.is_control()).take(60).collect();
        writeln!(
            out,
            "    {what:<14} {whose:<11} {value}{}{why}",
            if value.is_empty() || why.is_empty() { "" } else { ": " }
        )?;
    }
    Ok(())
}

fn row(what: &str, value: impl Into<String>, whose: &'static str, why: impl Into<String>) -> Row {
    (what.to_owned(), value.into(), whose, why.into())
}

fn of_pod(spec: &PodSpec, initdata: &InitData, seal: &Seal<'_>) -> Vec<Row> {
    let names = match &spec.names {
        Names::Exact(name) => name.clone(),
        Names::Pattern(pattern) => format!("like {pattern}"),
    };
    let allowed = |is: bool| if is { HOST } else { BOUND };
    let says = |is: bool| if is { "allowed by an option" } else { "refused in the guest" };
    let mut rows = vec![
        row("initdata", initdata.host_data().to_string(), BOUND, "the report shows this digest (HOST_DATA)"),
        row("names", names, BOUND, "of pods, and of their hosts"),
        row(
            "namespace",
            spec.metadata.namespace.clone().unwrap_or_default(),
            if spec.metadata.namespace.is_some() { BOUND } else { HOST },
            if spec.metadata.namespace.is_some() { "" } else { "the manifest names none" },
        ),
        row("kubectl exec", "", allowed(seal.exec), says(seal.exec)),
        row("kubectl logs", "", allowed(seal.logs), says(seal.logs)),
        row("network", "", HOST, "addresses and routes but the loopback's; trust only what TLS proves"),
        row("size", "", HOST, "CPUs, memory and when the pod ends"),
    ];
    rows.extend(spec.metadata.annotations.get(ScratchSize::ANNOTATION).map(|size| {
        let why = "encrypted in the guest, which wants it of this size; the host can damage what is on it";
        row("scratch disk", size, BOUND, why)
    }));
    rows
}

fn rows(container: &Container, spec: &PodSpec, content: String) -> Vec<Row> {
    let security = &container.security_context;
    let mut rows = vec![
        row("image", container.image.clone(), BOUND, content),
        row(
            "command",
            [&container.command[..], &container.args[..]].concat().join(" "),
            BOUND,
            "with the image's where empty",
        ),
        row("user", "", BOUND, "user, groups, capabilities, system calls, new privileges"),
    ];
    if security.read_only_root_filesystem == Some(true) {
        rows.push(row("root", "read-only", BOUND, ""));
    }
    for variable in &container.env {
        let name = &variable.name;
        rows.push(match &variable.value_from {
            None => row("variable", name.clone(), BOUND, ""),
            Some(ValueFrom { secret_key_ref: Some(_), .. }) => {
                row("variable", name.clone(), HOST, "a Secret's value")
            }
            Some(ValueFrom { config_map_key_ref: Some(_), .. }) => row(
                "variable",
                name.clone(),
                HOST,
                "a ConfigMap's value; bound where the ConfigMap is beside the pod",
            ),
            Some(_) => row("variable", name.clone(), HOST, "a field of the pod; its shape is bound"),
        });
    }
    for mount in &container.volume_mounts {
        let volume = spec.spec.volumes.iter().find(|volume| volume.name == mount.name);
        let content = match volume {
            Some(Volume { empty_dir: Some(_), .. }) if is_on_scratch(spec, &mount.name) => {
                (BOUND, "an emptyDir on the scratch disk")
            }
            Some(Volume { empty_dir: Some(_), .. }) => (BOUND, "an emptyDir in the guest's memory"),
            Some(Volume { secret: Some(_), .. }) => (HOST, "a Secret's files; the place is bound"),
            _ => (HOST, "files that the host writes; the place is bound"),
        };
        rows.push(row("mount", mount.mount_path.clone(), content.0, content.1));
    }
    if container.resources.gpus > 0 {
        rows.push(row(
            "GPUs",
            container.resources.gpus.to_string(),
            BOUND,
            "their number; each is verified in the guest",
        ));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_kubelets() {
        let of = |text| references(text).collect::<Vec<_>>();
        assert_eq!(of("--a=$(A) $$(B) $C ${D} $(E"), ["A"]);
        assert_eq!(of("$(A)$(B)"), ["A", "B"]);
    }
}
