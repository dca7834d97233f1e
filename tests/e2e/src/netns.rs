//! A network namespace that no CNI plugin filled.

use std::path::PathBuf;
use std::process::Command;

use crate::or_fail::OrFail;

/// A named network namespace; removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes an empty one.
    pub fn new(name: &str) -> Self {
        let status = Command::new("ip").args(["netns", "add", name]).status().or_fail("ip netns add");
        assert!(status.success(), "ip netns add {name}: {status}");
        Self { name: name.to_owned() }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
