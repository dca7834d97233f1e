//! From the wire's OCI messages to the library's specification, refusing what must not reach the guest.

use agent_client::proto::oci;
use oci_spec::runtime::{Process, Spec};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Converts a container's specification. Zero and empty mean absent, as the wire has no other way to say so.
pub fn container(spec: &oci::Spec) -> Result<Spec> {
    let process = spec.Process.as_ref().ok_or_else(|| Error::refused("specification without process"))?;
    let root = spec.Root.as_ref().ok_or_else(|| Error::refused("specification without root"))?;
    let linux = spec.Linux.as_ref().ok_or_else(|| Error::refused("specification without linux part"))?;
    if spec.Hooks.is_some() {
        return Err(Error::Unsupported("hooks"));
    }
    let version = if spec.Version.is_empty() { "1.0.2" } else { &spec.Version };
    parse(json!({
        "ociVersion": version,
        "process": process_value(process)?,
        "root": {"path": root.Path, "readonly": root.Readonly},
        "hostname": spec.Hostname,
        "mounts": spec.Mounts.iter().map(mount_value).collect::<Vec<_>>(),
        "annotations": spec.Annotations,
        "linux": linux_value(linux)?,
    }))
}

/// Converts one process.
pub fn process(process: &oci::Process) -> Result<Process> {
    parse(process_value(process)?)
}

/// Converts resource limits.
pub fn resources(resources: &oci::LinuxResources) -> Result<oci_spec::runtime::LinuxResources> {
    parse(resources_value(resources))
}

fn parse<T: serde::de::DeserializeOwned>(mut value: Value) -> Result<T> {
    prune(&mut value);
    serde_json::from_value(value).map_err(|error| Error::refused(format!("specification: {error}")))
}

/// Drops nulls, which stand for absent fields.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn process_value(process: &oci::Process) -> Result<Value> {
    if process.Args.is_empty() {
        return Err(Error::refused("process without arguments"));
    }
    if !process.Cwd.starts_with('/') {
        return Err(Error::refused(format!("working directory {:?}: must be absolute", process.Cwd)));
    }
    if !process.ApparmorProfile.is_empty() || !process.SelinuxLabel.is_empty() {
        return Err(Error::refused("AppArmor and SELinux labels are the host's, not the guest's"));
    }
    let user = process.User.get_or_default();
    let limit =
        |limit: &oci::POSIXRlimit| json!({"type": limit.Type, "hard": limit.Hard, "soft": limit.Soft});
    Ok(json!({
        "terminal": process.Terminal,
        "consoleSize": process.ConsoleSize.as_ref().map(|size| json!({"height": size.Height, "width": size.Width})),
        "user": {"uid": user.UID, "gid": user.GID, "additionalGids": user.AdditionalGids},
        "args": process.Args,
        "env": process.Env,
        "cwd": process.Cwd,
        "capabilities": process.Capabilities.as_ref().map(capabilities_value),
        "rlimits": process.Rlimits.iter().map(limit).collect::<Vec<_>>(),
        "noNewPrivileges": process.NoNewPrivileges,
        "oomScoreAdj": process.OOMScoreAdj,
    }))
}

fn capabilities_value(sets: &oci::LinuxCapabilities) -> Value {
    json!({
        "bounding": sets.Bounding,
        "effective": sets.Effective,
        "inheritable": sets.Inheritable,
        "permitted": sets.Permitted,
        "ambient": sets.Ambient,
    })
}

fn mount_value(mount: &oci::Mount) -> Value {
    json!({
        "destination": mount.destination,
        "source": mount.source,
        "type": text(&mount.type_),
        "options": mount.options,
    })
}

fn linux_value(linux: &oci::Linux) -> Result<Value> {
    if linux.Seccomp.is_some() {
        return Err(Error::refused("a seccomp profile, though the agent's details say that it knows none"));
    }
    unusual(&linux.Devices)?;
    if linux.IntelRdt.is_some() || !linux.MountLabel.is_empty() {
        return Err(Error::refused("intelRdt and mountLabel are the host's, not the guest's"));
    }
    if linux.CgroupsPath.contains(':') {
        return Err(Error::refused(format!(
            "cgroup path {:?}: the guest has no systemd; give a plain path",
            linux.CgroupsPath
        )));
    }
    let mapping = |map: &oci::LinuxIDMapping| json!({"hostID": map.HostID, "containerID": map.ContainerID, "size": map.Size});
    let mappings = |maps: &[oci::LinuxIDMapping]| {
        (!maps.is_empty()).then(|| maps.iter().map(mapping).collect::<Vec<_>>())
    };
    Ok(json!({
        "uidMappings": mappings(&linux.UIDMappings),
        "gidMappings": mappings(&linux.GIDMappings),
        "sysctl": (!linux.Sysctl.is_empty()).then_some(&linux.Sysctl),
        "resources": linux.Resources.as_ref().map(resources_value),
        "cgroupsPath": text(&linux.CgroupsPath),
        "namespaces": namespaces(&linux.Namespaces)?,
        "devices": linux.Devices.iter().map(device_value).collect::<Vec<_>>(),
        "rootfsPropagation": text(&linux.RootfsPropagation),
        "maskedPaths": linux.MaskedPaths,
        "readonlyPaths": linux.ReadonlyPaths,
    }))
}

/// Made for every container by kata-agent 4.1.0 (rustjail's `DEFAULT_DEVICES`), which fails on one that is there already.
const USUAL_DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/urandom", "/dev/random"];

fn unusual(devices: &[oci::LinuxDevice]) -> Result<()> {
    match devices.iter().find(|device| USUAL_DEVICES.contains(&device.Path.as_str())) {
        Some(device) => {
            Err(Error::errno("create container device", device.Path.as_str())(nix::errno::Errno::EEXIST))
        }
        None => Ok(()),
    }
}

/// The guest's own network and clock are the pod's: a container must not get others. Paths are the host's and dropped;
/// the PID namespace is the agent's to choose.
fn namespaces(list: &[oci::LinuxNamespace]) -> Result<Vec<Value>> {
    if !list.iter().any(|namespace| namespace.Type == "mount") {
        return Err(Error::refused("namespaces without mount"));
    }
    let mut kept = Vec::new();
    for namespace in list {
        match namespace.Type.as_str() {
            "mount" | "ipc" | "uts" | "cgroup" | "user" => kept.push(json!({"type": namespace.Type})),
            "pid" if namespace.Path.is_empty() => {}
            other => {
                return Err(Error::refused(format!(
                    "namespace {other} {:?}: the guest's own is the pod's",
                    namespace.Path
                )));
            }
        }
    }
    Ok(kept)
}

fn device_value(device: &oci::LinuxDevice) -> Value {
    json!({
        "path": device.Path,
        "type": device.Type,
        "major": device.Major,
        "minor": device.Minor,
        "fileMode": device.FileMode,
        "uid": device.UID,
        "gid": device.GID,
    })
}

fn resources_value(resources: &oci::LinuxResources) -> Value {
    let device = |rule: &oci::LinuxDeviceCgroup| {
        json!({
            "allow": rule.Allow,
            "type": text(&rule.Type),
            "major": (rule.Major != 0).then_some(rule.Major),
            "minor": (rule.Minor != 0).then_some(rule.Minor),
            "access": text(&rule.Access),
        })
    };
    let page = |page: &oci::LinuxHugepageLimit| json!({"pageSize": page.Pagesize, "limit": page.Limit});
    json!({
        "devices": resources.Devices.iter().map(device).collect::<Vec<_>>(),
        "memory": resources.Memory.as_ref().map(memory_value),
        "cpu": resources.CPU.as_ref().map(cpu_value),
        "pids": resources.Pids.as_ref().filter(|pids| pids.Limit != 0).map(|pids| json!({"limit": pids.Limit})),
        "hugepageLimits": resources.HugepageLimits.iter().map(page).collect::<Vec<_>>(),
    })
}

fn memory_value(memory: &oci::LinuxMemory) -> Value {
    let mut fields = Map::new();
    let numbers = [("limit", memory.Limit), ("reservation", memory.Reservation), ("swap", memory.Swap)];
    for (name, number) in numbers {
        if number > 0 {
            fields.insert(name.into(), number.into());
        }
    }
    if memory.DisableOOMKiller {
        fields.insert("disableOOMKiller".into(), true.into());
    }
    Value::Object(fields)
}

fn cpu_value(cpu: &oci::LinuxCPU) -> Value {
    json!({
        "shares": (cpu.Shares > 0).then_some(cpu.Shares),
        "quota": (cpu.Quota > 0).then_some(cpu.Quota),
        "period": (cpu.Period > 0).then_some(cpu.Period),
        "cpus": text(&cpu.Cpus),
        "mems": text(&cpu.Mems),
    })
}

fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> oci::Spec {
        let namespace = |name: &str| oci::LinuxNamespace { Type: name.into(), ..Default::default() };
        oci::Spec {
            Version: "1.1.0".into(),
            Process: Some(oci::Process { Args: vec!["sh".into()], Cwd: "/".into(), ..Default::default() })
                .into(),
            Root: Some(oci::Root { Path: "/rootfs".into(), ..Default::default() }).into(),
            Linux: Some(oci::Linux {
                Namespaces: ["mount", "ipc", "uts", "pid"].into_iter().map(namespace).collect(),
                Resources: Some(oci::LinuxResources {
                    Memory: Some(oci::LinuxMemory { Limit: 1 << 20, ..Default::default() }).into(),
                    ..Default::default()
                })
                .into(),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        }
    }

    #[test]
    fn converts_limits_and_leaves_out_zeroes() {
        let spec = container(&good()).unwrap();
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(1 << 20));
        assert_eq!(resources.memory().unwrap().swap(), None);
        assert!(resources.cpu().is_none());
    }

    #[test]
    fn leaves_the_pid_namespace_to_the_agent() {
        let spec = container(&good()).unwrap();
        assert_eq!(spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), 3);
    }

    #[test]
    fn refuses_what_is_the_hosts() {
        let cases: [fn(&mut oci::Spec); 9] = [
            |s| s.Process = None.into(),
            |s| s.Root = None.into(),
            |s| s.Linux = None.into(),
            |s| s.Process.as_mut().unwrap().Args.clear(),
            |s| s.Process.as_mut().unwrap().ApparmorProfile = "x".into(),
            |s| s.Linux.as_mut().unwrap().Seccomp = Some(oci::LinuxSeccomp::default()).into(),
            |s| s.Linux.as_mut().unwrap().CgroupsPath = "system.slice:a:b".into(),
            |s| s.Linux.as_mut().unwrap().Namespaces[3].Type = "network".into(),
            |s| s.Linux.as_mut().unwrap().Namespaces[3].Path = "/proc/1/ns/pid".into(),
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let mut spec = good();
            case(&mut spec);
            assert!(container(&spec).is_err(), "case {number}");
        }
    }
}
