//! For Trustee: reference values as its RVPS takes them, and a policy for the resources of its KBS.
//!
//! A KBS has one policy for all its resources, and RVPS one value for a name: what is written later takes the place of what was
//! there. So an output holds any number of pods, and [`merge`] makes one of several. Claims and their forms are those of
//! Trustee 0.18 to 0.21, hexadecimal, and of earlier ones, base64, where both are the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod rego;

/// The form of the output.
const FORMAT: u64 = 1;
/// Digits of a measurement.
const MEASUREMENT: usize = 96;
/// Longest name of a pod in a comment, in characters.
const NAME: usize = 253;

/// The kind of a confidential VM, as Trustee names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tee {
    Snp,
    Tdx,
}

impl Tee {
    const fn name(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }

    /// Digits of the report's field for initdata.
    const fn initdata(self) -> usize {
        match self {
            Self::Snp => 64,
            Self::Tdx => 96,
        }
    }

    /// Trustee's claim that names the machine (below the claims of this kind), and its digits: SNP's chip, TDX's platform.
    const fn machine(self) -> (&'static str, usize) {
        match self {
            Self::Snp => ("chip_id", 128),
            Self::Tdx => ("platform_instance_id", 32),
        }
    }

    /// The measurements by Trustee's names for its reference values (`ear_default_policy_cpu.rego`).
    const fn measurements(self) -> &'static [&'static str] {
        match self {
            Self::Snp => &["snp_launch_measurement"],
            Self::Tdx => &["mr_td", "rtmr_0", "rtmr_1", "rtmr_2"],
        }
    }
}

/// Which resources a pod may have: `repository/type/tag`, where `*` stands for any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Resource([String; 3]);

impl FromStr for Resource {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
        let fine = |part: &String| {
            part == "*" || (!part.is_empty() && !part.starts_with('.') && part.chars().all(plain))
        };
        match <[String; 3]>::try_from(parts) {
            Ok(parts) if parts.iter().all(fine) => Ok(Self(parts)),
            _ => bail!(
                "{text:?} names no resource: give REPOSITORY/TYPE/TAG, each in plain letters, or `*` for any"
            ),
        }
    }
}

impl TryFrom<String> for Resource {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Resource> for String {
    fn from(resource: Resource) -> Self {
        resource.to_string()
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// What is demanded of a pod's VM before it may have its resources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pod {
    /// For people.
    pub(crate) name: String,
    pub(crate) tee: Tee,
    /// In hexadecimal digits, by Trustee's names.
    pub(crate) measurements: BTreeMap<String, String>,
    /// The report's field for initdata in hexadecimal digits; zeros without initdata.
    pub(crate) initdata: String,
    /// SNP's policy (AMD 56860, 4.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snp_policy: Option<u64>,
    pub(crate) gpus: u32,
    /// The machines that it may run on, as Trustee's claims name them; any where none is named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) machines: BTreeSet<String>,
    pub(crate) resources: BTreeSet<Resource>,
}

impl Pod {
    /// Whether all of it may stand in a policy: what is read from a file can be anything.
    fn check(&self) -> Result<()> {
        let hex = |what: &str, text: &str, digits: usize| {
            let fine = text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            ensure!(
                fine,
                "pod {:?}: {what} is not {digits} lower-case hexadecimal digits: {text:?}",
                self.name
            );
            Ok(())
        };
        let (tee, named) = (self.tee, self.tee.measurements());
        for (name, value) in &self.measurements {
            ensure!(
                named.contains(&name.as_str()),
                "pod {:?}: {} has no measurement {name:?}",
                self.name,
                tee.name()
            );
            hex(name, value, MEASUREMENT)?;
        }
        // RTMR0 is known where somebody looked at the ACPI tables.
        for name in named.iter().filter(|name| **name != "rtmr_0") {
            ensure!(self.measurements.contains_key(*name), "pod {:?}: {name} is missing", self.name);
        }
        hex("the initdata's digest", &self.initdata, tee.initdata())?;
        let (claim, digits) = tee.machine();
        for machine in &self.machines {
            hex(&format!("a machine's {claim}"), machine, digits)?;
        }
        ensure!(
            self.snp_policy.is_some() == (tee == Tee::Snp),
            "pod {:?}: snp_policy is for SNP, and must be there",
            self.name
        );
        ensure!(!self.resources.is_empty(), "pod {:?}: it may have no resource at all", self.name);
        Ok(())
    }
}

/// What `-o trustee` prints, for any number of pods.
///
/// # Errors
/// A pod that could not stand in a policy.
pub(crate) fn output(pods: impl IntoIterator<Item = Pod>) -> Result<Value> {
    let pods: BTreeSet<Pod> = pods.into_iter().collect();
    ensure!(!pods.is_empty(), "there is no pod");
    pods.iter().try_for_each(Pod::check)?;
    let values = reference_values(&pods);
    Ok(json!({
        "format": FORMAT,
        "pods": pods,
        // A message of RVPS (`rvps/README.md`): the extractor "sample" takes a base64 object of lists.
        "rvps_message": { "version": "0.1.0", "type": "sample", "payload": STANDARD.encode(values.to_string()) },
        "reference_values": values,
        "resource_policy": rego::policy(&pods),
    }))
}

/// One output of several, for one KBS.
///
/// # Errors
/// One that is none.
pub(crate) fn merge(outputs: &[Value]) -> Result<Value> {
    let mut pods = Vec::new();
    for output in outputs {
        ensure!(
            output["format"] == FORMAT,
            "it is no output of `coffer measure pod -o trustee` of this version"
        );
        let more: Vec<Pod> =
            serde_json::from_value(output["pods"].clone()).context("its pods cannot be read")?;
        pods.extend(more);
    }
    self::output(pods)
}

/// All values of a name, since RVPS has one list for it. Both forms of SNP's: Trustee's own policy compares text.
fn reference_values(pods: &BTreeSet<Pod>) -> Value {
    let mut values: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for pod in pods {
        for (name, value) in &pod.measurements {
            let forms = if pod.tee == Tee::Snp { forms(value).to_vec() } else { vec![value.clone()] };
            values.entry(name).or_default().extend(forms);
        }
    }
    json!(values)
}

/// Bytes in hexadecimal digits, as Trustee writes them from 0.18 on, and in base64, as earlier ones do.
pub(super) fn forms(hex: &str) -> [String; 2] {
    let digits = |at| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).filter_map(digits).collect();
    [hex.to_owned(), STANDARD.encode(bytes)]
}

/// A name is foreign text; in a comment it may not begin a new line.
fn comment(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME).collect()
}

#[cfg(test)]
mod tests;
