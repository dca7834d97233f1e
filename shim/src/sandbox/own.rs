//! What a pod has although the engine starts no pause container for it (`sandboxer = "shim"`).
//!
//! containerd's own controller writes the pod's files, which its CRI plugin mounts into each container, and starts a pause
//! container with the pod's sysctls (containerd 2.1, `internal/cri/server/podsandbox/sandbox_run.go`). Where the shim is the
//! controller, the plugin leaves those mounts out, because there is nothing to mount
//! (`internal/cri/server/container_create.go`, `linuxContainerMounts`). So both are made here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agent_client::proto::agent::CreateContainerRequest;
use guest_spec::{OwnSandbox, SandboxFacts, VolumeJudge, own_sandbox};
use oci_spec::runtime::{Mount, Spec};

use crate::api::{ContainerId, CreateSandboxRequest, Dns, Error, PodFacts, Result, one_line};

/// The files, by where containers see them.
const FILES: [(&str, &str); 3] =
    [("/etc/hostname", "hostname"), ("/etc/hosts", "hosts"), ("/etc/resolv.conf", "resolv.conf")];
const SHM: &str = "/dev/shm";

/// The pod's files on the host, named as the engine's would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles(PathBuf);

impl PodFiles {
    /// Writes them below the sandbox's bundle.
    ///
    /// # Errors
    /// They cannot be written, or the host's own cannot be read.
    pub fn write(request: &CreateSandboxRequest) -> Result<Self> {
        let directory = request.bundle.join("sandboxes").join(request.id.as_str());
        let failed =
            |error| Error::failed(format!("write the pod's files below {}", directory.display()), error);
        fs::create_dir_all(&directory).map_err(failed)?;
        let PodFacts { hostname, dns, .. } = &request.facts;
        let hostname = match hostname.as_str() {
            "" => host_file("/proc/sys/kernel/hostname").map_err(failed)?,
            given => format!("{given}\n"),
        };
        let resolv = dns.as_ref().map_or_else(|| host_file("/etc/resolv.conf"), |dns| Ok(resolv_conf(dns)));
        let all = [hostname, host_file("/etc/hosts").map_err(failed)?, resolv.map_err(failed)?];
        for ((_, name), content) in FILES.iter().zip(all) {
            fs::write(directory.join(name), content).map_err(failed)?;
        }
        Ok(Self(directory))
    }

    /// A container's specification with the mounts that the engine left out.
    pub fn complete(&self, spec: &Spec) -> Spec {
        let mut spec = spec.clone();
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or_default();
        let mode = if read_only { "ro" } else { "rw" };
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        // A tmpfs of its own is what a container has by default, and what the plugin replaces by the pod's.
        mounts
            .retain(|mount| mount.destination() != Path::new(SHM) || mount.typ().as_deref() != Some("tmpfs"));
        for (destination, name, mode) in
            FILES.iter().map(|(at, name)| (*at, *name, mode)).chain([(SHM, "shm", "rw")])
        {
            if !mounts.iter().any(|mount| mount.destination() == Path::new(destination)) {
                let mut mount = Mount::default();
                mount.set_destination(destination.into());
                mount.set_source(Some(self.0.join(name)));
                mount.set_typ(Some("bind".to_owned()));
                mount.set_options(Some(["rbind", "rprivate", mode].map(str::to_owned).to_vec()));
                mounts.push(mount);
            }
        }
        spec.set_mounts(Some(mounts));
        spec
    }
}

fn host_file(path: &str) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn resolv_conf(dns: &Dns) -> String {
    let line = |word: &str, rest: &[String]| match rest {
        [] => String::new(),
        rest => format!("{word} {}\n", rest.join(" ")),
    };
    let servers: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    line("search", &dns.searches) + &servers + &line("options", &dns.options)
}

/// The request for the pod's own container in the guest.
///
/// # Errors
/// The pod is to share a namespace with the host.
pub fn own_container(id: &ContainerId, namespace: &str, facts: &PodFacts) -> Result<CreateContainerRequest> {
    let PodFacts { hostname, annotations, sysctls, host_namespaces, .. } = facts;
    let pod = OwnSandbox { hostname, annotations, sysctls, host_namespaces };
    let sandbox = SandboxFacts { namespace, seccomp: false, scratch: false, volumes: VolumeJudge::Engine };
    let guest = own_sandbox(id.as_str(), &pod, &sandbox)
        .map_err(|error| Error::InvalidRequest { field: "options", reason: one_line(&error) })?;
    Ok(guest.into_request(id.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(bundle: &Path) -> CreateSandboxRequest {
        let dns = Dns {
            servers: vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()],
            searches: vec!["ml.svc".to_owned(), "svc".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let facts = PodFacts {
            hostname: "web".to_owned(),
            dns: Some(dns),
            sysctls: [("net.core.somaxconn".to_owned(), "1024".to_owned())].into(),
            annotations: [("io.kubernetes.cri.sandbox-name".to_owned(), "web".to_owned())].into(),
            ..PodFacts::default()
        };
        CreateSandboxRequest {
            id: ContainerId::new("pod").unwrap(),
            bundle: bundle.to_path_buf(),
            netns: None,
            annotations: [].into(),
            facts,
        }
    }

    #[test]
    fn the_files_say_what_cri_says() {
        let dir = tempfile::tempdir().unwrap();
        let files = PodFiles::write(&request(dir.path())).unwrap();
        let text = |name: &str| fs::read_to_string(files.0.join(name)).unwrap();
        assert_eq!(text("hostname"), "web\n");
        assert_eq!(
            text("resolv.conf"),
            "search ml.svc svc\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n"
        );
        let mut without = request(dir.path());
        without.facts.dns = None;
        PodFiles::write(&without).unwrap();
        assert_eq!(text("resolv.conf"), host_file("/etc/resolv.conf").unwrap());
    }

    /// With what they add, a container is translated: the files are the pod's by their names.
    #[test]
    fn a_container_has_them_where_it_has_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let files = PodFiles::write(&request(dir.path())).unwrap();
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0", "root": { "path": "rootfs", "readonly": true },
            "mounts": [{ "destination": "/etc/hosts", "type": "bind", "source": "/k/pods/u/etc-hosts" },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm" }],
        }))
        .unwrap();
        let complete = files.complete(&spec);
        let seen: Vec<_> = complete.mounts().iter().flatten().collect();
        assert_eq!(seen.len(), 4);
        assert_eq!(seen[0].source().as_deref(), Some(Path::new("/k/pods/u/etc-hosts")));
        assert!(seen[1].options().iter().flatten().any(|option| option == "ro"));
        assert!(seen[3].source().as_ref().unwrap().ends_with("sandboxes/pod/shm"));
        assert_eq!(files.complete(&complete), complete);
    }

    #[test]
    fn the_pods_own_container_has_its_sysctls_and_no_hosts_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let CreateSandboxRequest { id, mut facts, .. } = request(dir.path());
        let asked = own_container(&id, "k8s.io", &facts).unwrap();
        assert_eq!((asked.container_id.as_str(), asked.OCI.Hostname.as_str()), ("pod", "web"));
        assert_eq!(asked.OCI.Linux.Sysctl["net.core.somaxconn"], "1024");
        assert_eq!(asked.OCI.Linux.Sysctl["net.ipv4.ip_unprivileged_port_start"], "0");
        assert_eq!(asked.OCI.Linux.Sysctl["net.ipv4.ping_group_range"], "0 2147483647");
        assert_eq!(asked.OCI.Annotations["io.kubernetes.cri.container-type"], "sandbox");
        assert_eq!(asked.OCI.Annotations["io.kubernetes.cri.sandbox-name"], "web");
        assert_eq!(asked.OCI.Annotations["io.kubernetes.cri.sandbox-id"], "pod");
        facts.host_namespaces = vec!["hostNetwork"];
        let error = own_container(&id, "k8s.io", &facts).unwrap_err().to_string();
        assert!(error.contains("hostNetwork"), "{error}");
    }
}
