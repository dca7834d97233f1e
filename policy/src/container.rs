//! What the rules expect of one container.

use std::collections::BTreeSet;

use pod_manifest::spec::{Capabilities, Container, Spec};
use serde_json::{Value, json};

use crate::command::{command, own_commands};
use crate::environment::{Environment, patterns};
use crate::mounts::{Copied, engine, last_words, mounts};
use crate::{ImageConfig, PolicyError, image};

/// What containerd gives a container that asks for nothing (`pkg/oci/spec.go`).
const USUAL_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The pause container, which containerd starts first: it does nothing, whatever its image is called.
pub(crate) fn sandbox() -> Value {
    let usual = Environment::default();
    json!({
        "name": "",
        "image": null,
        "args": ["/pause"],
        "commands": [],
        "cwd": "/",
        "tty": false,
        "stdin": false,
        "uid": null,
        "gid": null,
        "read_only": false,
        "new_privileges": true,
        "shares_pids": false,
        "capabilities": capabilities(&Capabilities::default()),
        "env": [],
        "env_optional": usual.optional(),
        "env_any": usual.any_value(),
        "env_patterns": [],
        "mounts": [],
        "mounts_optional": engine(&mut Copied::default()),
        "last_words": null,
        "gpus": 0,
        "switches": 0,
    })
}

pub(crate) fn expected(
    container: &Container,
    spec: &Spec,
    image: Option<&ImageConfig>,
    copied: &mut Copied,
) -> Result<Value, PolicyError> {
    confined(container)?;
    let environment = Environment::of(container, image)?;
    let mounts = mounts(container, spec, image, copied)?;
    let security = &container.security_context;
    let (uid, gid) = user(container, spec, image)?;
    let directory = container.working_dir.as_deref().filter(|directory| !directory.is_empty());
    let of_image = image.map(|image| image.directory.as_str()).filter(|directory| !directory.is_empty());
    Ok(json!({
        "name": container.name,
        "image": image::reference(&container.name, &container.image)?,
        "args": command(container, image, &environment)?,
        "commands": own_commands(container, &environment),
        "cwd": directory.or(of_image).unwrap_or("/"),
        "tty": container.tty.unwrap_or_default(),
        "stdin": container.stdin.unwrap_or_default(),
        "uid": uid,
        "gid": gid,
        "read_only": security.read_only_root_filesystem.unwrap_or_default(),
        "new_privileges": security.allow_privilege_escalation.unwrap_or(true),
        "shares_pids": spec.share_process_namespace.unwrap_or_default(),
        "capabilities": capabilities(&security.capabilities),
        "env": environment.required(),
        "env_optional": environment.optional(),
        "env_any": environment.any_value(),
        "env_patterns": patterns(spec, container),
        "mounts": mounts.required,
        "mounts_optional": mounts.optional,
        "last_words": last_words(container),
        "gpus": container.resources.gpus,
        "switches": container.resources.switches,
    }))
}

fn confined(container: &Container) -> Result<(), PolicyError> {
    let security = &container.security_context;
    let unmasked = security.proc_mount.as_deref().is_some_and(|mount| mount == "Unmasked");
    let settings = [
        (security.privileged == Some(true), "securityContext.privileged"),
        (unmasked, "securityContext.procMount: Unmasked"),
    ];
    match settings.into_iter().find(|(set, _)| *set) {
        Some((_, setting)) => Err(PolicyError::Unconfined { container: container.name.clone(), setting }),
        None => Ok(()),
    }
}

/// User and group; no group where only the image knows it. The groups beyond the first are the image's as well.
fn user(
    container: &Container,
    spec: &Spec,
    image: Option<&ImageConfig>,
) -> Result<(u32, Option<u32>), PolicyError> {
    let (own, pods) = (&container.security_context, &spec.security_context);
    let group = own.run_as_group.or(pods.run_as_group);
    let (user, of_image) = match own.run_as_user.or(pods.run_as_user) {
        Some(user) => (user, None),
        None => {
            let text = image.map(|image| image.user.as_str()).unwrap_or_default();
            let (user, group) =
                text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
            let unknown =
                || PolicyError::UserName { container: container.name.clone(), user: text.to_owned() };
            (
                number(user).ok_or_else(unknown)?,
                group.map(|group| number(group).ok_or_else(unknown)).transpose()?,
            )
        }
    };
    let roots = (user == 0).then_some(0);
    Ok((user, group.or(of_image).or(roots)))
}

fn number(name: &str) -> Option<u32> {
    match name {
        "" | "root" => Some(0),
        number => number.parse().ok(),
    }
}

/// Under the kernel's names, as containerd computes them: `ALL` first, then one by one, dropped after added.
fn capabilities(asked: &Capabilities) -> Vec<String> {
    let name = |name: &String| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: BTreeSet<String> = USUAL_CAPABILITIES.map(str::to_owned).into();
    if asked.add.iter().any(is_all) {
        set.extend(EVERY_OTHER.map(str::to_owned));
    }
    if asked.drop.iter().any(is_all) {
        set.clear();
    }
    set.extend(asked.add.iter().filter(|name| !is_all(name)).map(name));
    for dropped in asked.drop.iter().filter(|name| !is_all(name)).map(name) {
        set.remove(&dropped);
    }
    set.into_iter().map(|name| format!("CAP_{name}")).collect()
}

/// The other capabilities of Linux (`linux/capability.h`, up to 40).
const EVERY_OTHER: [&str; 27] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

#[cfg(test)]
mod tests {
    use super::*;
    use pod_manifest::spec::{PodSecurity, Security};

    fn set(add: &[&str], drop: &[&str]) -> Vec<String> {
        let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        capabilities(&Capabilities { add: texts(add), drop: texts(drop) })
    }

    #[test]
    fn capabilities_are_containerds() {
        assert_eq!(set(&[], &[]).len(), 14);
        assert_eq!(set(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(set(&[], &["all"]), Vec::<String>::new());
        assert_eq!(set(&["ALL"], &[]).len(), 41);
        assert!(set(&["CAP_SYS_PTRACE"], &[]).contains(&"CAP_SYS_PTRACE".to_owned()));
        assert!(!set(&[], &["KILL"]).contains(&"CAP_KILL".to_owned()));
    }

    #[test]
    fn the_container_decides_its_user_then_the_pod_then_the_image() {
        let image = |user: &str| ImageConfig { user: user.into(), ..ImageConfig::default() };
        let of = |own: Option<u32>, pods: Option<u32>, image: Option<&ImageConfig>| {
            let container = Container {
                security_context: Security { run_as_user: own, ..Security::default() },
                ..Container::default()
            };
            let security_context = PodSecurity { run_as_user: pods, ..PodSecurity::default() };
            user(&container, &Spec { security_context, ..Spec::default() }, image)
        };
        assert_eq!(of(Some(1), Some(2), Some(&image("3:4"))).unwrap(), (1, None));
        assert_eq!(of(None, Some(2), Some(&image("3:4"))).unwrap(), (2, None));
        assert_eq!(of(None, None, Some(&image("3:4"))).unwrap(), (3, Some(4)));
        assert_eq!(of(None, None, Some(&image("3"))).unwrap(), (3, None));
        assert_eq!(of(None, None, None).unwrap(), (0, Some(0)));
        assert!(matches!(of(None, None, Some(&image("app"))), Err(PolicyError::UserName { .. })));
    }
}
