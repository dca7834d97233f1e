//! Reads from outside what a running QEMU serves through fw_cfg.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::json;

use crate::monitor::Monitor;
use crate::or_fail::OrFail;

impl Monitor {
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
}
