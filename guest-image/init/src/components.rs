//! The guest components of the Confidential Containers project, in an image that was built with them: kata-agent starts them, and
//! PID 1 puts in place what they need and what the agent is to start them with.
//!
//! By itself kata-agent 4.1.0 gives the attestation agent the initdata only if it found the initdata's disk, and here there is no
//! node for one. So it gets a description of what to start, as it takes one from an extension image mounted at
//! [`EXTENSION`] (`src/agent/src/guest_extension_image.rs`).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::initdata::CHECKED;
use crate::private::Device;
use crate::tee::Tee;

/// One of them, below the root: an image has all three or none.
const COMPONENT: &str = "usr/local/bin/attestation-agent";
/// Where the agent looks for the description, below the root. Paths in it begin here.
const EXTENSION: &str = "run/kata-extensions/coco";
/// The description, below that.
const DESCRIPTION: &str = "etc/kata-extensions/components.toml";

/// Why they cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ComponentsError {
    /// Something could not be made.
    #[error("cannot make {} for the guest components", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel's device for reports is not there.
    #[error("cannot read {}, which names the device that the guest components ask for reports", path.display())]
    Device {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What they are started for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The kind of the VM.
    pub tee: Option<Tee>,
    /// Whether the pod brought initdata.
    pub initdata: bool,
    /// Whether containers may ask for tokens, with which these components always give the token's private key.
    pub tokens: bool,
}

/// Whether the image has them.
pub fn are_in(root: &Path) -> bool {
    root.join(COMPONENT).exists()
}

/// Writes the description, and makes a node of the device that they ask for reports: other than PID 1 they look for it in /dev.
/// No container has it, by its own /dev and by the device program of its cgroup.
///
/// # Errors
///
/// [`ComponentsError`].
pub fn prepare(root: &Path, order: &Order) -> Result<(), ComponentsError> {
    prepare_with(root, order, |node, device| {
        let number = makedev(device.major, device.minor);
        Ok(mknod(node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, number)?)
    })
}

fn prepare_with(
    root: &Path,
    order: &Order,
    node: impl Fn(&Path, Device) -> io::Result<()>,
) -> Result<(), ComponentsError> {
    let extension = root.join(EXTENSION);
    let path = extension.join(DESCRIPTION);
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(&path, description(order)))
        .map_err(|source| ComponentsError::Make { path, source })?;
    // The programs stay where they are.
    let link = extension.join("usr");
    symlink("/usr", &link).map_err(|source| ComponentsError::Make { path: link, source })?;
    let Some(name) = order.tee.map(Tee::device) else { return Ok(()) };
    let path = root.join("sys/class/misc").join(name).join("dev");
    let device = Device::read(&path).map_err(|source| ComponentsError::Device { path, source })?;
    let path = root.join("dev").join(name);
    node(&path, device).map_err(|source| ComponentsError::Make { path, source })
}

/// What the agent is to start, in this order. It waits for a socket before it goes on.
fn description(order: &Order) -> String {
    let initdata =
        if order.initdata { format!(", \"--initdata-toml\", \"/{CHECKED}\"") } else { String::new() };
    let features = if order.tokens { "all" } else { "resource" };
    format!(
        r#"schema_version = 1

# kata-agent refuses a description without this path. The data hub writes its own where its environment names none.
[paths]
ocicrypt-config = "run/confidential-containers/cdh/ocicrypt_config.json"

[[process]]
id = "attestation-agent"
level = 1
path = "usr/local/bin/attestation-agent"
args = ["--attestation_sock", "${{aa_attestation_uri}}"{initdata}]
config = "${{aa_config_path}}"
wait_socket = "${{aa_attestation_socket}}"
timeout_secs = "60"

[[process]]
id = "confidential-data-hub"
level = 2
path = "usr/local/bin/confidential-data-hub"
config = "${{cdh_config_path}}"
wait_socket = "${{cdh_socket}}"
timeout_secs = "60"

[[process]]
id = "api-server-rest"
level = 3
path = "usr/local/bin/api-server-rest"
args = ["--features", "{features}"]
"#
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use toml::Value;

    use super::*;

    fn args(order: &Order) -> Vec<Vec<String>> {
        let description: Value = toml::from_str(&description(order)).unwrap();
        let words = |process: &Value| {
            let args = process.get("args").and_then(Value::as_array).cloned().unwrap_or_default();
            args.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        description["process"].as_array().unwrap().iter().map(words).collect()
    }

    #[test]
    fn the_attestation_agent_gets_the_initdata_that_was_checked() {
        let socket = ["--attestation_sock", "${aa_attestation_uri}"];
        let [aa, cdh, api] = args(&Order::default()).try_into().unwrap();
        assert_eq!((aa.as_slice(), cdh.is_empty()), (&socket.map(str::to_owned)[..], true));
        assert_eq!(api, ["--features", "resource"], "containers get no token's key unasked");
        let [aa, _, api] = args(&Order { initdata: true, tokens: true, tee: None }).try_into().unwrap();
        assert_eq!(aa[2..], ["--initdata-toml", "/run/confidential-containers/initdata/initdata.toml"]);
        assert_eq!(api, ["--features", "all"]);
    }

    #[test]
    fn each_starts_after_what_it_asks() {
        let description: Value = toml::from_str(&description(&Order::default())).unwrap();
        let processes = description["process"].as_array().unwrap();
        let of = |key: &str| processes.iter().map(|process| process.get(key).cloned()).collect::<Vec<_>>();
        let paths = ["attestation-agent", "confidential-data-hub", "api-server-rest"];
        assert_eq!(of("path"), paths.map(|name| Some(format!("usr/local/bin/{name}").into())));
        assert_eq!(of("level"), [1, 2, 3].map(|level| Some(Value::Integer(level))));
        let sockets = ["${aa_attestation_socket}", "${cdh_socket}"];
        assert_eq!(of("wait_socket")[..2], sockets.map(|socket| Some(socket.into())));
    }

    #[test]
    fn the_reports_device_has_a_node_where_the_vm_is_confidential() {
        let root = tempfile::tempdir().unwrap();
        let made = RefCell::new(Vec::new());
        let node = |path: &Path, device: Device| {
            made.borrow_mut().push((path.to_owned(), device.to_string()));
            Ok(())
        };
        prepare_with(root.path(), &Order::default(), node).unwrap();
        assert!(made.borrow().is_empty());
        assert_eq!(fs::read_link(root.path().join(EXTENSION).join("usr")).unwrap(), Path::new("/usr"));
        assert!(root.path().join(EXTENSION).join(DESCRIPTION).is_file());

        let root = tempfile::tempdir().unwrap();
        let snp = Order { tee: Some(Tee::Snp), ..Order::default() };
        let error = prepare_with(root.path(), &snp, node).unwrap_err().to_string();
        assert!(error.contains("sys/class/misc/sev-guest/dev"), "{error}");
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/class/misc/sev-guest");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("dev"), "10:260\n").unwrap();
        prepare_with(root.path(), &snp, node).unwrap();
        assert_eq!(made.take(), [(root.path().join("dev/sev-guest"), "10:260".to_owned())]);
    }
}
