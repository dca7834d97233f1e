//! What the policy says of the predicted token, and of its neighbours.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use regorus::{Engine, Value as Rego};
use serde_json::json;

use super::super::pod::{Class, Demand};
use super::super::trustee::{Resource, forms};
use super::prediction::{Model, Shape};

/// Most GPUs that are tried.
const GPUS: u32 = 16;
/// Most texts of a policy that are tried in the place of a digest, or of a path.
const TEXTS: usize = 64;
/// Claims of a token that nobody knows before there is a report, by the names that a policy has for them.
const UNKNOWN: [&str; 16] = [
    "reported_tcb_",
    "chip_id",
    "platform_",
    "tcb_status",
    "advisory_ids",
    "collateral_expiration_status",
    "mr_seam",
    "tcb_svn",
    "xfam",
    "platform_instance_id",
    "driver_version",
    "driver-version",
    "vbios",
    "runtime_data_claims",
    "init_data_claims",
    "uefi_event_logs",
];

/// What the broker would say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Yes; with what the manifest leaves open, if that matters.
    Given(String),
    /// No, and why.
    Denied(String),
}

/// The broker's policy.
pub(super) struct Broker {
    engine: Engine,
    text: String,
    path: Vec<String>,
}

impl Broker {
    /// # Errors
    /// A policy that no broker takes.
    pub(super) fn new(text: &str, resource: &Resource) -> Result<Self> {
        let path = resource.to_string();
        ensure!(!path.contains('*'), "a pod asks for one resource: give --resource without `*`");
        let mut engine = Engine::new();
        let package = engine.add_policy("policy.rego".to_owned(), text.to_owned());
        let package = package.map_err(|error| {
            let lines: Vec<String> = error.to_string().lines().map(|line| line.trim().to_owned()).collect();
            anyhow::anyhow!("{}", lines.join(" "))
        });
        let package = package.context("it is no policy in Rego")?;
        ensure!(
            package == "data.policy",
            "its package is {package}, and a key broker asks data.policy.allow"
        );
        Ok(Self { engine, text: text.to_owned(), path: path.split('/').map(str::to_owned).collect() })
    }

    /// As the broker asks (Trustee, `kbs/src/api_server.rs`). A policy that fails denies.
    fn allows(&self, shape: &Shape) -> bool {
        let mut engine = self.engine.clone();
        let data = json!({ "plugin": "resource", "resource-path": shape.path, "query": {} });
        let mut ask = || -> Result<bool> {
            engine.add_data(Rego::from_json_str(&data.to_string())?)?;
            engine.set_input(Rego::from_json_str(&shape.token().to_string())?);
            Ok(engine.eval_rule("data.policy.allow".to_owned())? == Rego::from(true))
        };
        ask().unwrap_or(false)
    }

    /// Texts in quotes, of a policy's literals.
    fn texts(&self) -> BTreeSet<&str> {
        self.text.split('"').skip(1).step_by(2).collect()
    }

    /// Paths that the policy writes out, as a list or as a text.
    fn paths(&self) -> Vec<Vec<String>> {
        let lists = self.text.split('[').filter_map(|rest| rest.split_once(']')).map(|(list, _)| list);
        let of_list =
            lists.map(|list| list.split(',').map(|part| part.trim().trim_matches('"').to_owned()).collect());
        let of_text = self.texts().into_iter().map(|text| text.split('/').map(str::to_owned).collect());
        let paths = of_list
            .chain(of_text)
            .filter(|parts: &Vec<String>| parts.len() == 3 && parts.iter().all(|p| !p.is_empty()));
        // Where the policy takes any, this one is as good.
        let own = |parts: Vec<String>| -> Vec<String> {
            parts
                .into_iter()
                .zip(&self.path)
                .map(|(part, own)| if part == "*" { own.clone() } else { part })
                .collect()
        };
        let all: BTreeSet<Vec<String>> = paths.map(own).collect();
        all.into_iter().take(TEXTS).collect()
    }

    /// Digests that the policy writes out, of so many bytes, in both forms.
    fn digests(&self, bytes: usize) -> Vec<String> {
        let hex = |text: &str| text.len() == 2 * bytes && text.bytes().all(|c| c.is_ascii_hexdigit());
        let base64 =
            |text: &str| text.len() == bytes.div_ceil(3) * 4 && !text.bytes().all(|c| c.is_ascii_hexdigit());
        self.texts()
            .into_iter()
            .filter(|text| hex(text) || base64(text))
            .take(TEXTS)
            .map(str::to_owned)
            .collect()
    }

    /// Claims that the policy asks for and nobody knows.
    fn unknown(&self) -> Vec<&'static str> {
        // Not in its comments.
        let code: String = self.text.lines().map(|line| line.split('#').next().unwrap_or_default()).fold(
            String::new(),
            |mut code, line| {
                code.push_str(line);
                code.push('\n');
                code
            },
        );
        UNKNOWN.into_iter().filter(|name| code.contains(name)).collect()
    }
}

/// One thing changed, and what to say of it.
type Change = (String, Box<dyn Fn(&mut Shape)>);

/// Asks about the pod.
pub(super) fn rehearse(broker: &Broker, demand: &Demand) -> Answer {
    let own = Shape::of(demand, broker.path.clone());
    if let Some(answer) = given(broker, &own) {
        return Answer::Given(answer);
    }
    let changes = changes(broker, demand);
    let with = |shapes: &[&Change]| {
        let mut shape = own.clone();
        shapes.iter().for_each(|(_, change)| change(&mut shape));
        given(broker, &shape).is_some()
    };
    if let Some((what, _)) = changes.iter().find(|change| with(&[change])) {
        return Answer::Denied(what.clone());
    }
    for (at, first) in changes.iter().enumerate() {
        if let Some(second) = changes.iter().skip(at + 1).find(|second| with(&[first, second])) {
            return Answer::Denied(format!("{}; and {}", first.0, second.0));
        }
    }
    let unknown = broker.unknown();
    if !unknown.is_empty() {
        let what = unknown.join(", ");
        return Answer::Denied(format!(
            "it asks for what nobody knows before the report, and may give it then: {what}"
        ));
    }
    Answer::Denied("no pod like this one would get it: neither other measurements and initdata of the policy, nor another number of GPUs, nor another resource".to_owned())
}

/// Whether it is given, with any model of GPUs.
fn given(broker: &Broker, shape: &Shape) -> Option<String> {
    let with = |model| broker.allows(&Shape { model, ..shape.clone() });
    let models: Vec<Model> = Model::ALL.into_iter().filter(|model| with(*model)).collect();
    match models[..] {
        [] => None,
        [only] if shape.gpus > 0 => Some(format!(", if its GPUs are {}", only.name())),
        _ => Some(String::new()),
    }
}

fn changes(broker: &Broker, demand: &Demand) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for path in broker.paths() {
        let what = format!("it gives this pod {} and not {}", path.join("/"), broker.path.join("/"));
        changes.push((what, Box::new(move |shape| shape.path.clone_from(&path))));
    }
    for gpus in 0..=GPUS {
        let what = format!("it wants {gpus} GPUs, and the pod has {}", demand.gpus);
        changes.push((what, Box::new(move |shape| shape.gpus = gpus)));
    }
    let bytes = match demand.class {
        Class::CofferSnp => 32,
        Class::CofferTdx => 48,
    };
    for digest in broker.digests(bytes) {
        let what = format!("it wants another initdata: {digest}; this pod's is {}", both(&demand.initdata));
        changes.push((what, Box::new(move |shape| shape.initdata.clone_from(&digest))));
    }
    for (name, value) in &demand.registers {
        for digest in broker.digests(48) {
            let what = format!("it wants another {name}: {digest}; this pod's is {}", both(value));
            let name = *name;
            changes.push((what, Box::new(move |shape| drop(shape.registers.insert(name, digest.clone())))));
        }
    }
    match demand.class {
        Class::CofferSnp => {
            for (bit, flag) in
                [(16, "SMT"), (18, "a migration agent"), (19, "debugging"), (20, "a single socket only")]
            {
                let own = demand.snp_policy.unwrap_or_default() >> bit & 1 == 1;
                let what = format!(
                    "it wants SNP's policy to {} {flag}, and the node's snp_policy does{}",
                    if own { "refuse" } else { "allow" },
                    if own { "" } else { " not" }
                );
                changes.push((what, Box::new(move |shape| shape.snp_policy ^= 1 << bit)));
            }
        }
        Class::CofferTdx => {
            for word in broker.digests(8) {
                let what = format!("it wants other TDX attributes: {word}; this pod's are 0000001000000000");
                changes.push((what, Box::new(move |shape| shape.attributes.clone_from(&word))));
            }
            if !demand.registers.iter().any(|(name, _)| *name == "rtmr0") {
                for digest in broker.digests(48) {
                    let what = format!(
                        "it wants RTMR0 {digest}, and --acpi is not given, by which it would be known"
                    );
                    changes.push((
                        what,
                        Box::new(move |shape| drop(shape.registers.insert("rtmr0", digest.clone()))),
                    ));
                }
            }
        }
    }
    changes
}

/// A digest in both forms that brokers have for it.
fn both(hex: &str) -> String {
    let [hex, base64] = forms(hex);
    let mut text = hex;
    // A string takes everything.
    let _ = write!(text, " ({base64})");
    text
}

#[cfg(test)]
mod tests;
