//! A real API server: etcd, kube-apiserver, and what a cluster's administrator has of them. There is no controller and no
//! scheduler. Both programs end with the value.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::installer::{kubectl, said};

/// How long it may take to serve, on a busy machine.
const START: Duration = Duration::from_secs(300);
const ADMIN: &str = "administrator";

pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    programs: Vec<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (store, peers, port) = (free_port(), free_port(), free_port());
        let made = Command::new("openssl").args(["genrsa", "-out", &at("accounts.key"), "2048"]).output();
        assert!(made.unwrap().status.success(), "openssl makes no key");
        fs::write(at("tokens"), format!("{ADMIN},{ADMIN},1,system:masters\n")).unwrap();
        let (store, peers) = (format!("http://127.0.0.1:{store}"), format!("http://127.0.0.1:{peers}"));
        let etcd = [
            ("data-dir", at("etcd")),
            ("listen-client-urls", store.clone()),
            ("advertise-client-urls", store.clone()),
            ("listen-peer-urls", peers.clone()),
            ("initial-advertise-peer-urls", peers.clone()),
            ("initial-cluster", format!("default={peers}")),
        ];
        let apiserver = [
            ("etcd-servers", store),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", port.to_string()),
            ("cert-dir", at("certificates")),
            // The installer's pod is.
            ("allow-privileged", "true".to_owned()),
            ("authorization-mode", "RBAC".to_owned()),
            ("token-auth-file", at("tokens")),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", at("accounts.key")),
            ("service-account-signing-key-file", at("accounts.key")),
            // Its tokens come from a controller; without one no pod would be accepted.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ];
        let programs = vec![
            spawn("COFFER_TEST_ETCD", &etcd, &dir.path().join("etcd.log")),
            spawn("COFFER_TEST_KUBE_APISERVER", &apiserver, &dir.path().join("apiserver.log")),
        ];
        let mut server = Self { dir, port, programs };
        server.wait();
        server
    }

    /// kubectl's options for whoever has this token.
    pub(crate) fn options(&self, token: &str) -> String {
        format!("--server=https://127.0.0.1:{} --insecure-skip-tls-verify --token={token}", self.port)
    }

    /// A directory of this test's own.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// kubectl as somebody.
    pub(crate) fn kubectl(&self, token: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(kubectl());
        command.args(self.options(token).split(' ')).args(arguments);
        command.env("HOME", self.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// kubectl as the cluster's administrator, who succeeds.
    #[track_caller]
    pub(crate) fn admin(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(ADMIN, arguments);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// An object as the server has it.
    #[track_caller]
    pub(crate) fn object(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.admin(&[&["get", "--output=json"], arguments].concat())).unwrap()
    }

    /// Posts to an address of the API.
    #[track_caller]
    pub(crate) fn post(&self, token: Option<&str>, path: &str, body: &Value) -> Value {
        let file = self.path().join("body.json");
        fs::write(&file, body.to_string()).unwrap();
        let arguments = ["create", "--raw", path, "--filename", file.to_str().unwrap()];
        let output = self.kubectl(token.unwrap_or(ADMIN), &arguments);
        assert!(output.status.success(), "{path}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Creates an object from a file, as the administrator; gives the refusal.
    pub(crate) fn created(&self, object: &Value) -> Result<(), String> {
        let file = self.path().join("object.json");
        fs::write(&file, object.to_string()).unwrap();
        let arguments = ["create", "--validate=false", "--filename", file.to_str().unwrap()];
        let output = self.kubectl(ADMIN, &arguments);
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    }

    fn wait(&mut self) {
        let end = Instant::now() + START;
        loop {
            for program in &mut self.programs {
                let ended = program.try_wait().unwrap();
                assert!(ended.is_none(), "{ended:?}: {}", self.logs());
            }
            // The namespaces that it makes itself come last.
            if self.kubectl(ADMIN, &["get", "namespace", "default"]).status.success()
                && self.kubectl(ADMIN, &["get", "--raw", "/readyz"]).status.success()
            {
                return;
            }
            assert!(Instant::now() < end, "it does not serve: {}", self.logs());
            thread::park_timeout(Duration::from_millis(200));
        }
    }

    fn logs(&self) -> String {
        let last = |name: &str| {
            let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        format!("etcd:\n{}\nkube-apiserver:\n{}", last("etcd.log"), last("apiserver.log"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for program in self.programs.iter_mut().rev() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// One that nobody has now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(variable: &str, options: &[(&str, String)], log: &Path) -> Child {
    let program = std::env::var_os(variable).map(PathBuf::from);
    let program = program.unwrap_or_else(|| panic!("{variable} names no program: tools/test-api runs this"));
    let log = File::create(log).unwrap();
    let mut command = Command::new(&program);
    command.args(options.iter().map(|(name, value)| format!("--{name}={value}")));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}
