//! The client against a real kata-agent.
//!
//! `COFFER_KATA_AGENT_SOCKET` names the unix socket of a running agent (`KATA_AGENT_SERVER_ADDR=unix://...`), in mount,
//! PID and network namespaces of its own: the agent takes `/run/kata-containers` for itself. `make conformance` has it in VMs.
//! `COFFER_KATA_AGENT_ROOTFS`, a directory in the agent's mount namespace with a `/bin/sh`, adds the tests of containers.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use agent_client::proto::{agent as msg, oci};
use agent_client::{Agent, Code, Courier, Endpoint, Mirror, ProcessRef, connect};
use tempfile::TempDir;

const SHARED: &str = "/run/kata-containers/shared/containers";

#[tokio::test]
async fn a_sandbox_and_a_container_on_a_real_agent() {
    let Some(socket) = env::var_os("COFFER_KATA_AGENT_SOCKET") else {
        eprintln!("NOT TESTED: no running kata-agent is named by COFFER_KATA_AGENT_SOCKET");
        return;
    };
    let agent = connect(&Endpoint::Unix(PathBuf::from(socket))).await.unwrap();
    describe(&agent).await;
    sandbox(&agent).await;
    files(&agent).await;
    refusals(&agent).await;
    match env::var("COFFER_KATA_AGENT_ROOTFS") {
        Ok(rootfs) => container(&agent, &rootfs).await,
        Err(_) => eprintln!("without containers: COFFER_KATA_AGENT_ROOTFS names no root file system"),
    }
    agent.destroy_sandbox().await.unwrap();
}

async fn describe(agent: &Agent) {
    let version = agent.version().await.unwrap();
    assert!(!version.agent_version.is_empty());
    let details = agent.get_guest_details(msg::GuestDetailsRequest::default()).await.unwrap();
    for driver in ["scsi", "ephemeral"] {
        assert!(details.agent_details.storage_handlers.iter().any(|name| name == driver), "{driver}");
    }
    assert!(agent.list_interfaces().await.unwrap().iter().any(|interface| interface.name == "lo"));
}

async fn sandbox(agent: &Agent) {
    let shm = msg::Storage {
        driver: "ephemeral".to_string(),
        source: "tmpfs".to_string(),
        fstype: "tmpfs".to_string(),
        options: vec!["noexec".to_string(), "size=1048576".to_string()],
        mount_point: "/run/kata-containers/sandbox/shm".to_string(),
        ..Default::default()
    };
    let request = msg::CreateSandboxRequest {
        hostname: "conformance".to_string(),
        sandbox_id: "sandbox".to_string(),
        storages: vec![shm.clone()],
        ..Default::default()
    };
    agent.create_sandbox(request).await.unwrap();

    let options = [vec!["remount".to_string()], shm.options.clone()].concat();
    let request = msg::UpdateEphemeralMountsRequest {
        storages: vec![msg::Storage { options, ..shm }],
        ..Default::default()
    };
    agent.update_ephemeral_mounts(request).await.unwrap();
}

async fn files(agent: &Agent) {
    let courier = Courier::new(agent.clone());
    let dir = TempDir::new().unwrap();
    let volume = dir.path().join("volume");
    fs::create_dir_all(volume.join("..1")).unwrap();
    fs::write(volume.join("..1/key"), vec![b'v'; 3 << 20]).unwrap();
    symlink("..1", volume.join("..data")).unwrap();
    symlink("..data/key", volume.join("key")).unwrap();
    let mut mirror = Mirror::tree(volume.clone(), format!("{SHARED}/c1-volume"));
    mirror.sync(&courier).await.unwrap();

    fs::create_dir(volume.join("..2")).unwrap();
    fs::write(volume.join("..2/key"), "new").unwrap();
    fs::remove_file(volume.join("..data")).unwrap();
    symlink("..2", volume.join("..data")).unwrap();
    fs::remove_dir_all(volume.join("..1")).unwrap();
    mirror.sync(&courier).await.unwrap();
}

async fn refusals(agent: &Agent) {
    let error = agent.start_container("nobody").await.unwrap_err();
    assert!(error.code().is_some(), "{error}");
    let error = agent.signal_process(ProcessRef::init("nobody"), 15).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::INVALID_ARGUMENT), "{error}");
    let outside = msg::CopyFileRequest { path: "/etc/passwd".to_string(), ..Default::default() };
    assert!(agent.copy_file(outside).await.is_err());
}

fn process(script: &str) -> oci::Process {
    oci::Process {
        User: Some(oci::User::default()).into(),
        Args: ["/bin/sh", "-c", script].map(str::to_string).to_vec(),
        Env: vec!["PATH=/bin:/usr/bin".to_string()],
        Cwd: "/".to_string(),
        // Required, if only to say that there are none.
        Capabilities: Some(oci::LinuxCapabilities::default()).into(),
        ..Default::default()
    }
}

async fn create(agent: &Agent, container: &str, rootfs: &str, script: &str) {
    let mount = |typ: &str, source: &str, destination: &str| oci::Mount {
        destination: destination.to_string(),
        source: source.to_string(),
        type_: typ.to_string(),
        options: if typ == "bind" { vec!["rbind".to_string()] } else { Vec::new() },
        ..Default::default()
    };
    let namespaces = ["mnt", "ipc", "uts"];
    let spec = oci::Spec {
        Version: "1.2.0".to_string(),
        Process: Some(process(script)).into(),
        Root: Some(oci::Root { Path: rootfs.to_string(), ..Default::default() }).into(),
        Mounts: vec![
            mount("proc", "proc", "/proc"),
            mount("tmpfs", "tmpfs", "/dev"),
            mount("bind", "/run/kata-containers/sandbox/shm", "/dev/shm"),
            mount("bind", &format!("{SHARED}/c1-volume"), "/volume"),
        ],
        Linux: Some(oci::Linux {
            CgroupsPath: format!("/conformance/{container}"),
            Namespaces: namespaces
                .map(|typ| oci::LinuxNamespace { Type: typ.to_string(), ..Default::default() })
                .to_vec(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    let request = msg::CreateContainerRequest {
        container_id: container.to_string(),
        exec_id: container.to_string(),
        OCI: Some(spec).into(),
        ..Default::default()
    };
    agent.create_container(request).await.unwrap();
}

async fn read_all(agent: &Agent, process: ProcessRef<'_>) -> String {
    let mut all = Vec::new();
    loop {
        let data = agent.read_stdout(process, 1 << 20).await.unwrap();
        if data.is_empty() {
            return String::from_utf8(all).unwrap();
        }
        all.extend(data);
    }
}

async fn container(agent: &Agent, rootfs: &str) {
    let id = "container1";
    let init = ProcessRef::init(id);
    create(agent, id, rootfs, "cat /volume/key; hostname; grep /dev/shm /proc/mounts; cat; exit 7").await;
    agent.start_container(id).await.unwrap();

    agent.exec_process(id, "exec1", process("echo from exec")).await.unwrap();
    let exec = ProcessRef::exec(id, "exec1");
    assert_eq!(read_all(agent, exec).await, "from exec\n");
    assert_eq!(agent.wait_process(exec).await.unwrap(), 0);

    agent.write_stdin(init, b"typed".to_vec()).await.unwrap();
    agent.write_stdin(init, Vec::new()).await.unwrap();
    let output = read_all(agent, init).await;
    assert!(output.starts_with("new"), "{output}");
    assert!(output.contains("size=1024k"), "{output}");
    assert!(output.ends_with("typed"), "{output}");
    assert_eq!(agent.wait_process(init).await.unwrap(), 7);
    let error = agent.read_stdout(init, 1).await.unwrap_err();
    eprintln!("reading after the end: {error}");
    agent.remove_container(id, Duration::from_secs(10)).await.unwrap();
}
