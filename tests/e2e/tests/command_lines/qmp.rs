//! A QEMU without a machine, asked what it knows.

use std::process::{Child, Command, Stdio};

use e2e::Monitor;
use serde_json::{Value, json};

/// The program that the rig's root has.
pub const QEMU: &str = "qemu-system-x86_64";

/// It ends when it is dropped.
pub struct Qmp {
    child: Child,
    monitor: Monitor,
}

impl Qmp {
    /// Starts one with these arguments and its monitor on the standard streams.
    pub fn start(args: &[&str]) -> Self {
        let mut child = Command::new(QEMU)
            .args(["-nodefaults", "-display", "none", "-qmp", "stdio"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let monitor = Monitor::of_child(&mut child);
        Self { child, monitor }
    }

    /// The answer to a command, or what is wrong with it.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.monitor.ask(command, &arguments)
    }

    /// The names of a type's properties.
    pub fn properties(&mut self, command: &str, typename: &str) -> Result<Vec<String>, String> {
        let list = self.ask(command, json!({ "typename": typename }))?;
        Ok(list.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect())
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
