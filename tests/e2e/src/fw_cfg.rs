//! Reads from outside what a running QEMU serves through fw_cfg.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::or_fail::OrFail;

/// A VM's monitor (QMP), held by one caller.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and leaves the negotiation.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).or_fail("connect to the monitor");
        stream.set_read_timeout(Some(Duration::from_secs(30))).or_fail("time limit of the monitor");
        let reader = BufReader::new(stream.try_clone().or_fail("second handle of the monitor"));
        let mut monitor = Self { stream, reader };
        monitor.execute("qmp_capabilities", &json!({}));
        monitor
    }

    /// Runs one command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.send(command, arguments);
        self.reply()
    }

    /// The ACPI files of fw_cfg, by name, as the firmware reads them.
    ///
    /// QEMU keeps each in a RAM block of its own, `/rom@NAME`, whose address in the process `info ramblock` tells.
    pub fn acpi_files(&mut self, qemu: u32) -> BTreeMap<String, Vec<u8>> {
        let blocks = self.execute("human-monitor-command", &json!({ "command-line": "info ramblock" }));
        let memory = File::open(format!("/proc/{qemu}/mem")).or_fail("open QEMU's memory");
        let blocks = blocks.as_str().or_fail("list of RAM blocks").lines();
        blocks
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let name = fields.next()?.strip_prefix("/rom@")?;
                // Offset, used size, whole size, address in the process.
                let numbers: Vec<_> = fields.filter_map(|field| field.strip_prefix("0x")).collect();
                let number = |at: usize| u64::from_str_radix(numbers.get(at)?, 16).ok();
                let mut bytes = vec![0; usize::try_from(number(1)?).ok()?];
                memory.read_exact_at(&mut bytes, number(3)?).or_fail(format!("read {name}"));
                Some((name.to_owned(), bytes))
            })
            .collect()
    }

    fn send(&mut self, command: &str, arguments: &Value) {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        writeln!(self.stream, "{line}").or_fail("write to the monitor");
    }

    /// The next result; greetings and events are passed over.
    fn reply(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let length = self.reader.read_line(&mut line).or_fail("read from the monitor");
            assert_ne!(length, 0, "QEMU closed its monitor");
            let mut reply: Value = serde_json::from_str(&line).or_fail("a line of the monitor");
            assert!(reply.get("error").is_none(), "the monitor says {reply}");
            if let Some(result) = reply.get_mut("return") {
                return result.take();
            }
        }
    }
}
