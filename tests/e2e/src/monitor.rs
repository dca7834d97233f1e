//! QEMU's monitor (QMP), held by one caller.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};

use crate::or_fail::OrFail;

/// The monitor of one QEMU.
pub struct Monitor {
    writer: Box<dyn Write>,
    reader: Box<dyn BufRead>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Monitor")
    }
}

impl Monitor {
    /// Connects to a socket and leaves the negotiation.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).or_fail("connect to the monitor");
        stream.set_read_timeout(Some(Duration::from_secs(30))).or_fail("time limit of the monitor");
        let reader = BufReader::new(stream.try_clone().or_fail("second handle of the monitor"));
        Self::negotiated(Box::new(stream), Box::new(reader))
    }

    /// Takes the standard streams of a QEMU that has its monitor there, and leaves the negotiation.
    pub fn of_child(qemu: &mut Child) -> Self {
        let writer = qemu.stdin.take().or_fail("QEMU's standard input");
        let reader = BufReader::new(qemu.stdout.take().or_fail("QEMU's standard output"));
        Self::negotiated(Box::new(writer), Box::new(reader))
    }

    fn negotiated(writer: Box<dyn Write>, reader: Box<dyn BufRead>) -> Self {
        let mut monitor = Self { writer, reader };
        monitor.execute("qmp_capabilities", &json!({}));
        monitor
    }

    /// Runs one command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.ask(command, arguments).or_fail(command)
    }

    /// Runs one command; its result, or what QEMU has against it. Greetings and events are passed over.
    ///
    /// # Errors
    /// The command's error, in QEMU's words.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        writeln!(self.writer, "{line}").or_fail("write to the monitor");
        loop {
            let mut line = String::new();
            let length = self.reader.read_line(&mut line).or_fail("read from the monitor");
            assert_ne!(length, 0, "QEMU closed its monitor at {command}");
            let mut reply: Value = serde_json::from_str(&line).or_fail("a line of the monitor");
            if let Some(result) = reply.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = reply.get("error") {
                return Err(error["desc"].as_str().or_fail("an error's text").to_owned());
            }
        }
    }
}
