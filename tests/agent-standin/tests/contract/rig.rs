//! An agent as a process of this machine, over a unix socket: the stand-in, or a real kata-agent.

use std::env;
use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use agent_client::proto::agent::{CreateContainerRequest, CreateSandboxRequest, Storage};
use agent_client::proto::oci;
use agent_client::{Agent, AgentError, Endpoint, ProcessRef};
use tokio::runtime::Builder;
use tokio::time::sleep;

/// Names a real kata-agent, for the tests that run against both.
const REAL: &str = "KATA_AGENT";

const INSIDE: &str = "AGENT_STANDIN_INSIDE";

const CGROUPS: &str = "/sys/fs/cgroup";

/// Runs `body` inside the private root; on the outside, runs this test there.
pub fn inside<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Rig) -> F) {
    inside_with(env!("CARGO_BIN_EXE_agent-standin"), test, body);
}

/// The same with the stand-in, and then with the real agent that [`REAL`] names, where it does.
pub fn inside_both<F: Future<Output = ()>>(test: &str, body: impl Fn(Rig) -> F) {
    inside(test, &body);
    match env::var(REAL) {
        Ok(agent) => inside_with(&agent, test, &body),
        Err(_) => eprintln!("{test}: with the stand-in only; {REAL} names no agent"),
    }
}

fn inside_with<F: Future<Output = ()>>(agent: &str, test: &str, body: impl FnOnce(Rig) -> F) {
    if let Ok(inside) = env::var(INSIDE) {
        if inside == agent {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { body(Rig::new(test).await).await });
        }
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return;
    }
    let program = env::current_exe().unwrap();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let binds =
        [program.parent().unwrap(), Path::new(agent).parent().unwrap()].map(|dir| dir.display().to_string());
    let status = Command::new(repository.join("tools/enter"))
        .arg(&program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, agent)
        .env("COFFER_BIND", binds.join(" "))
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside tools/enter");
}

/// What the tests of both agents ask for, as a policy names it.
const REQUESTS: [&str; 20] = [
    "CloseStdin",
    "CopyFile",
    "CreateContainer",
    "CreateSandbox",
    "ExecProcess",
    "GetDiagnosticData",
    "ListInterfaces",
    "PauseContainer",
    "ReadStream",
    "RemoveContainer",
    "ResumeContainer",
    "SignalProcess",
    "StartContainer",
    "StatsContainer",
    "TtyWinResize",
    "UpdateContainer",
    "UpdateInterface",
    "VolumeStats",
    "WaitProcess",
    "WriteStream",
];

/// A test's agent.
pub struct Rig {
    /// Name of the test, and of the cgroup above its containers': the tree of cgroups is the whole machine's.
    test: String,
    pub agent: Agent,
    pub standin: Child,
    /// A root file system for containers.
    pub root: PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.standin.kill();
        let _ = self.standin.wait();
        let hierarchies = [PathBuf::from(CGROUPS)].into_iter();
        for root in
            hierarchies.chain(controllers_of_version_1().iter().map(|name| Path::new(CGROUPS).join(name)))
        {
            let cgroup = root.join(&self.test);
            for container in fs::read_dir(&cgroup).into_iter().flatten().flatten() {
                let _ = fs::write(container.path().join("cgroup.kill"), "1");
                for below in fs::read_dir(container.path()).into_iter().flatten().flatten() {
                    let _ = fs::remove_dir(below.path());
                }
                let _ = fs::remove_dir(container.path());
            }
            let _ = fs::remove_dir(cgroup);
        }
    }
}

impl Rig {
    async fn new(test: &str) -> Self {
        mount_cgroups();
        let root = PathBuf::from("/tmp/rootfs");
        for directory in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "dd", "echo", "sleep", "id", "hostname", "stty", "ls", "grep", "ipcs", "true",
            "seq", "pwd", "head",
        ] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let (agent, standin) = start(&[]).await;
        Self { test: format!("agent-standin-{}", test.replace("::", "-")), agent, standin, root }
    }

    pub async fn sandbox(&self) {
        let request = CreateSandboxRequest {
            sandbox_id: "pod1".into(),
            hostname: "podhost".into(),
            dns: vec!["nameserver 192.0.2.1".into()],
            storages: vec![Storage {
                driver: "ephemeral".into(),
                source: "shm".into(),
                fstype: "tmpfs".into(),
                mount_point: "/run/kata-containers/sandbox/shm".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        self.agent.create_sandbox(request).await.unwrap();
    }

    pub fn spec(&self, args: &[&str]) -> oci::Spec {
        let namespace = |name: &str| oci::LinuxNamespace { Type: name.into(), ..Default::default() };
        let mount = |kind: &str, target: &str| oci::Mount {
            type_: kind.into(),
            source: kind.into(),
            destination: target.into(),
            ..Default::default()
        };
        oci::Spec {
            Version: "1.1.0".into(),
            Process: Some(process(args)).into(),
            Root: Some(oci::Root { Path: self.root.display().to_string(), ..Default::default() }).into(),
            Mounts: vec![mount("proc", "/proc"), mount("tmpfs", "/dev"), mount("devpts", "/dev/pts")],
            Linux: Some(oci::Linux {
                Namespaces: ["mount", "ipc", "uts"].into_iter().map(namespace).collect(),
                CgroupsPath: format!("/{}", self.test),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        }
    }

    pub async fn create(&self, id: &str, spec: oci::Spec) -> Result<(), AgentError> {
        let mut spec = spec;
        if let Some(linux) = spec.Linux.as_mut() {
            linux.CgroupsPath = format!("{}/{id}", linux.CgroupsPath);
        }
        let request =
            CreateContainerRequest { container_id: id.into(), OCI: Some(spec).into(), ..Default::default() };
        self.agent.create_container(request).await
    }

    pub async fn run(&self, id: &str, args: &[&str]) {
        self.create(id, self.spec(args)).await.unwrap();
        self.agent.start_container(id).await.unwrap();
    }

    /// Puts a process into a cgroup below a container's.
    pub fn put_below(&self, id: &str, name: &str, pid: &str) {
        let container = format!("{}/{id}", self.test);
        let roots = if is_standin() { Vec::new() } else { controllers_of_version_1() };
        let mut roots: Vec<_> = roots.iter().map(|controller| Path::new(CGROUPS).join(controller)).collect();
        if roots.is_empty() {
            roots.push(PathBuf::from(CGROUPS));
        }
        for root in roots {
            let below = root.join(&container).join(name);
            fs::create_dir(&below).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                // Version 1 takes nobody without.
                if let Ok(all) = fs::read(root.join(&container).join(file)) {
                    let _ = fs::write(below.join(file), all);
                }
            }
            fs::write(below.join("cgroup.procs"), pid).unwrap();
        }
    }

    /// Whether the agent can limit a container's memory: the stand-in cannot where the machine has that controller in version 1.
    pub fn limits_memory(&self, id: &str) -> bool {
        !is_standin() || Path::new(CGROUPS).join(&self.test).join(id).join("memory.max").exists()
    }

    pub async fn remove(&self, id: &str) {
        self.agent.remove_container(id, Duration::from_secs(10)).await.unwrap();
    }

    pub async fn output(&self, process: ProcessRef<'_>) -> String {
        let mut all = Vec::new();
        loop {
            match self.agent.read_stdout(process, 4096).await {
                Ok(data) if !data.is_empty() => all.extend(data),
                _ => return String::from_utf8(all).unwrap(),
            }
        }
    }
}

#[allow(clippy::zombie_processes, reason = "the rig waits for it")]
pub async fn start(extra: &[(&str, &str)]) -> (Agent, Child) {
    let socket = PathBuf::from("/run/agent.sock");
    let _ = fs::remove_file(&socket);
    let program = env::var(INSIDE).unwrap();
    let mut command = Command::new(&program);
    if is_standin() {
        command.args(["--listen", "unix:///run/agent.sock"]);
    } else {
        own_devices();
        // A real one has a policy, or does not start.
        let allowed = REQUESTS.map(|name| format!("default {name}Request := true\n")).concat();
        fs::write("/tmp/allow.rego", format!("package agent_policy\n{allowed}")).unwrap();
        command.env("KATA_AGENT_POLICY_FILE", "/tmp/allow.rego");
    }
    let standin = command
        .env("KATA_AGENT_SERVER_ADDR", "unix:///run/agent.sock")
        .envs(extra.iter().copied())
        .spawn()
        .unwrap();
    let endpoint = Endpoint::Unix(socket);
    for _ in 0..200 {
        if let Ok(agent) = agent_client::connect(&endpoint).await {
            return (agent, standin);
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{program} does not answer");
}

/// Version 2, as in a guest. A real agent must have the memory controller, which is in version 1 on some machines.
fn mount_cgroups() {
    let controllers = controllers_of_version_1();
    if is_standin() || controllers.is_empty() {
        return mount(&["-t", "cgroup2", "cgroup2", CGROUPS]);
    }
    mount(&["-t", "tmpfs", "tmpfs", CGROUPS]);
    for controller in controllers {
        let place = Path::new(CGROUPS).join(&controller);
        fs::create_dir(&place).unwrap();
        mount(&["-t", "cgroup", "-o", &controller, "cgroup", place.to_str().unwrap()]);
    }
}

/// Those that this machine has in a hierarchy of version 1 each (cgroups(7), /proc/cgroups).
fn controllers_of_version_1() -> Vec<String> {
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|row| {
        let mut fields = row.split_whitespace();
        let (name, hierarchy) = (fields.next()?, fields.next()?);
        (hierarchy != "0").then(|| name.to_owned())
    })
    .collect()
}

fn is_standin() -> bool {
    env::var(INSIDE).unwrap() == env!("CARGO_BIN_EXE_agent-standin")
}

/// A /dev as PID 1 makes it, without the disks of this machine: an agent reads each, for it may have the initdata.
fn own_devices() {
    if fs::exists("/dev/.coffer").unwrap() {
        return;
    }
    let script = "set -e; mkdir -p /tmp/dev; mount -t tmpfs tmpfs /tmp/dev; cd /tmp/dev; mkdir pts shm; touch .coffer
        for node in null zero full random urandom tty; do cp -a /dev/$node .; done
        ln -s pts/ptmx ptmx; ln -s /proc/self/fd fd; mount --move /tmp/dev /dev; mount -t devpts -o ptmxmode=666 devpts /dev/pts";
    assert!(Command::new("sh").args(["-c", script]).status().unwrap().success(), "make a /dev");
}

fn mount(args: &[&str]) {
    assert!(Command::new("mount").args(args).status().unwrap().success(), "mount {args:?}");
}

pub fn process(args: &[&str]) -> oci::Process {
    let all = vec!["CAP_CHOWN".to_owned(), "CAP_KILL".to_owned()];
    oci::Process {
        Args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        Env: vec!["PATH=/bin".into()],
        Cwd: "/".into(),
        Capabilities: Some(oci::LinuxCapabilities {
            Bounding: all.clone(),
            Effective: all.clone(),
            Permitted: all,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

pub fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}
