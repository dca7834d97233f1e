//! What is written down of a sandbox, in every format that there was.

use host_claims::cgroup::CgroupRecord;
use host_claims::net::NetRecord;
use host_claims::process::Identity;
use host_claims::vsock::VsockRecord;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::release::Claim;
use crate::devices::DevicesRecord;

/// The format that is written. Each older one has a golden record among the tests; 0 had no number.
pub const FORMAT: u32 = 1;

/// Everything of a sandbox that outlives its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The record's format.
    #[serde(default)]
    pub format: u32,
    /// The shim that owns the sandbox, or who gives it back for a dead one.
    pub shim: Identity,
    /// Whether that one only gives back.
    #[serde(default)]
    pub reaping: bool,
    /// QEMU. Between its start and this entry only the shim's end ends it.
    pub qemu: Option<Identity>,
    /// The agent's transport.
    pub vsock: Option<VsockRecord>,
    /// Taps and redirections.
    pub net: Option<NetRecord>,
    /// The sandbox's cgroup.
    pub cgroup: Option<CgroupRecord>,
    /// GPUs and NVSwitches, to be reset.
    #[serde(default)]
    pub devices: Option<DevicesRecord>,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is understood.
    pub record: Record,
    /// Entries of a newer record that are not.
    pub foreign: Vec<String>,
    /// All entries as they were written, of a newer record.
    entries: Map<String, Value>,
}

impl Record {
    /// A record that names nothing but its owner.
    pub fn of(shim: Identity) -> Self {
        Self {
            format: FORMAT,
            shim,
            reaping: false,
            qemu: None,
            vsock: None,
            net: None,
            cgroup: None,
            devices: None,
        }
    }

    /// What is given back is named no more: all but the claims that `failed`. Of devices stays what their release has left.
    pub(crate) fn keep(&mut self, failed: &[Claim]) {
        let is_left = |claim| failed.contains(&claim);
        let Self { format: _, shim: _, reaping: _, qemu, vsock, net, cgroup, devices } = self;
        qemu.take_if(|_| !is_left(Claim::Qemu));
        vsock.take_if(|_| !is_left(Claim::Vsock));
        net.take_if(|_| !is_left(Claim::Network));
        cgroup.take_if(|_| !is_left(Claim::Cgroup));
        devices.take_if(|_| !is_left(Claim::Devices));
    }

    /// Whether anything of the host is named.
    pub(crate) fn names_claims(&self) -> bool {
        let Self { qemu, vsock, net, cgroup, devices, .. } = self;
        qemu.is_some() || vsock.is_some() || net.is_some() || cgroup.is_some() || devices.is_some()
    }
}

impl Found {
    /// Reads a record. One of a newer format is read as far as its entries are known.
    ///
    /// # Errors
    /// It is no record.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut entries: Map<String, Value> = serde_json::from_str(text)?;
        let format = entries.get("format").and_then(Value::as_u64).unwrap_or(0);
        if format <= FORMAT.into() {
            let record = serde_json::from_value(Value::Object(entries))?;
            return Ok(Self { record, foreign: Vec::new(), entries: Map::new() });
        }
        let written = entries.clone();
        let mut foreign = Vec::new();
        let shim: Option<Identity> = entry(&mut entries, "shim", &mut foreign);
        let shim = shim.ok_or_else(|| serde_json::Error::missing_field("shim"))?;
        let record = Record {
            format: u32::try_from(format).unwrap_or(u32::MAX),
            shim,
            reaping: entry(&mut entries, "reaping", &mut foreign).unwrap_or_default(),
            qemu: entry(&mut entries, "qemu", &mut foreign),
            vsock: entry(&mut entries, "vsock", &mut foreign),
            net: entry(&mut entries, "net", &mut foreign),
            cgroup: entry(&mut entries, "cgroup", &mut foreign),
            devices: entry(&mut entries, "devices", &mut foreign),
        };
        entries.remove("format");
        foreign.extend(entries.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name));
        Ok(Self { record, foreign, entries: written })
    }

    /// What is to be written when all but the claims that `failed` is given back. Of a newer record everything else stays as
    /// it was written.
    pub(crate) fn without_released(mut self, failed: &[Claim]) -> Result<Vec<u8>, serde_json::Error> {
        self.record.keep(failed);
        if self.foreign.is_empty() {
            return serde_json::to_vec(&self.record);
        }
        let Record { qemu, vsock, net, cgroup, devices, .. } = &self.record;
        for (name, is_left) in [
            ("qemu", qemu.is_some()),
            ("vsock", vsock.is_some()),
            ("net", net.is_some()),
            ("cgroup", cgroup.is_some()),
            ("devices", devices.is_some()),
        ] {
            if !is_left && !self.foreign.iter().any(|foreign| foreign == name) {
                self.entries.insert(name.to_owned(), Value::Null);
            }
        }
        serde_json::to_vec(&self.entries)
    }
}

/// Takes an entry out; one that is not what it is here is foreign.
fn entry<T: DeserializeOwned>(
    entries: &mut Map<String, Value>,
    name: &'static str,
    foreign: &mut Vec<String>,
) -> Option<T> {
    let value = entries.remove(name).filter(|value| !value.is_null())?;
    let read = serde_json::from_value(value).ok();
    if read.is_none() {
        foreign.push(name.to_owned());
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [&str; 2] = [include_str!("golden/format-0.json"), include_str!("golden/format-1.json")];

    #[test]
    fn every_format_that_there_was_is_read_and_names_the_same() {
        for (format, text) in GOLDEN.iter().enumerate() {
            let Found { record, foreign, .. } = Found::parse(text).unwrap();
            assert_eq!((record.format as usize, foreign.len()), (format, 0));
            assert!(record.names_claims());
            let [qemu, net] = [record.qemu.map(|qemu| qemu.pid), record.net.map(|net| net_taps(&net))];
            assert_eq!((qemu, net), (Some(4713), Some(1)), "format {format}");
            assert!(record.vsock.is_some() && record.cgroup.is_some() && record.devices.is_some());
        }
    }

    fn net_taps(net: &NetRecord) -> i32 {
        let text = serde_json::to_string(net).unwrap();
        i32::try_from(text.matches("\"tap\"").count()).unwrap()
    }

    #[test]
    fn what_is_written_is_the_newest_golden_record() {
        let Found { record, .. } = Found::parse(GOLDEN[1]).unwrap();
        assert_eq!(record.format, FORMAT);
        let mut written: Value = serde_json::to_value(&record).unwrap();
        // Only rigs have it.
        written["devices"]["host"].as_object_mut().unwrap().remove("emulated");
        assert_eq!(written, serde_json::from_str::<Value>(GOLDEN[1]).unwrap());
    }

    #[test]
    fn of_a_newer_record_is_read_what_is_known_and_the_rest_is_named() {
        let mut newer: Map<String, Value> = serde_json::from_str(GOLDEN[1]).unwrap();
        newer.insert("format".to_owned(), 7.into());
        newer.insert("jail".to_owned(), serde_json::json!({ "uid": 70_001 }));
        newer.insert("nothing".to_owned(), Value::Null);
        newer.insert("vsock".to_owned(), "by another way".into());
        let found = Found::parse(&serde_json::to_string(&newer).unwrap()).unwrap();
        let Found { record, foreign, .. } = &found;
        assert_eq!(*foreign, ["vsock", "jail"]);
        assert!(record.vsock.is_none() && record.net.is_some() && record.devices.is_some());
        assert_eq!((record.format, record.qemu.map(|qemu| qemu.pid)), (7, Some(4713)));
        // What is given back goes, what is not understood stays as it is.
        for (name, is_left) in [("qemu", false), ("net", false), ("cgroup", true), ("devices", false)] {
            if !is_left {
                newer.insert(name.to_owned(), Value::Null);
            }
        }
        let written = found.without_released(&[Claim::Cgroup]).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), Value::Object(newer));
    }

    #[test]
    fn what_is_given_back_is_named_no_more() {
        let left = |failed: &[Claim]| {
            let written = Found::parse(GOLDEN[1]).unwrap().without_released(failed).unwrap();
            let written: Value = serde_json::from_slice(&written).unwrap();
            let names = ["qemu", "vsock", "net", "cgroup", "devices"];
            let left = names.iter().filter(|name| !written[name].is_null()).copied().collect::<Vec<_>>();
            assert_eq!(Found::parse(&written.to_string()).unwrap().record.names_claims(), !left.is_empty());
            left
        };
        assert!(left(&[]).is_empty() && left(&[Claim::Image]).is_empty());
        assert_eq!(left(&[Claim::Qemu, Claim::Cgroup, Claim::Image]), ["qemu", "cgroup"]);
        assert_eq!(left(&[Claim::Vsock, Claim::Network, Claim::Devices]), ["vsock", "net", "devices"]);
    }

    #[test]
    fn an_entry_that_is_unknown_in_a_known_format_is_no_record() {
        let mut record: Map<String, Value> = serde_json::from_str(GOLDEN[1]).unwrap();
        record.insert("jail".to_owned(), Value::Null);
        assert!(Found::parse(&serde_json::to_string(&record).unwrap()).is_err());
        assert!(
            Found::parse("{}").is_err()
                && Found::parse("[]").is_err()
                && Found::parse("{\"format\":9}").is_err()
        );
    }
}
