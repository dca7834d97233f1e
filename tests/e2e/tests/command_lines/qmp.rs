//! A QEMU without a machine, asked what it knows.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// The program that the rig's root has.
pub const QEMU: &str = "qemu-system-x86_64";

/// It ends when it is dropped.
pub struct Qmp {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
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
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut qmp = Self { child, input, output };
        qmp.ask("qmp_capabilities", json!({})).unwrap();
        qmp
    }

    /// The answer to a command, or what is wrong with it.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        writeln!(self.input, "{}", json!({ "execute": command, "arguments": arguments })).unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "QEMU ended at {command}");
            let mut message: Value = serde_json::from_str(&line).unwrap();
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                return Err(error["desc"].as_str().unwrap().to_owned());
            }
        }
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
