//! The token that a pod's VM will get, as far as it is known before there is one (Trustee's EAR; `measurement::trustee` has the
//! sources).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::measure::pod::{Class, Demand};

/// What a VM is like, as a token shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) class: Class,
    /// By the names that `coffer measure pod` has for them.
    pub(super) registers: BTreeMap<&'static str, String>,
    pub(super) initdata: String,
    pub(super) snp_policy: u64,
    pub(super) attributes: String,
    pub(super) gpus: u32,
    pub(super) model: Model,
    /// Of the resource.
    pub(super) path: Vec<String>,
}

/// What no manifest says: which GPUs the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    Hopper,
    Blackwell,
}

impl Model {
    pub(super) const ALL: [Self; 2] = [Self::Blackwell, Self::Hopper];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Hopper => "Hopper",
            Self::Blackwell => "Blackwell",
        }
    }

    const fn hwmodel(self) -> &'static str {
        match self {
            Self::Hopper => "GH100 A01 GSP BROM",
            Self::Blackwell => "GB100 A01 GSP BROM",
        }
    }
}

impl Shape {
    pub(super) fn of(demand: &Demand, path: Vec<String>) -> Self {
        Self {
            class: demand.class,
            registers: demand.registers.iter().cloned().collect(),
            initdata: demand.initdata.clone(),
            snp_policy: demand.snp_policy.unwrap_or_default(),
            attributes: "0000001000000000".to_owned(),
            gpus: demand.gpus,
            model: Model::Blackwell,
            path,
        }
    }

    pub(super) fn token(&self) -> Value {
        let evidence = match self.class {
            Class::CofferSnp => {
                let bit = |bit: u32| self.snp_policy >> bit & 1 == 1;
                json!({
                    "snp": {
                        "measurement": self.registers.get("launch_digest"),
                        "policy_smt_allowed": bit(16),
                        "policy_migrate_ma": bit(18),
                        "policy_debug_allowed": bit(19),
                        "policy_single_socket": bit(20),
                        "policy_abi_major": self.snp_policy >> 8 & 0xff,
                        "policy_abi_minor": self.snp_policy & 0xff,
                    },
                    "init_data": self.initdata,
                })
            }
            Class::CofferTdx => {
                let mut body = json!({ "td_attributes": self.attributes, "mr_config_id": self.initdata });
                for (name, value) in &self.registers {
                    let name =
                        if *name == "mrtd" { "mr_td".to_owned() } else { name.replacen("rtmr", "rtmr_", 1) };
                    body[name] = value.as_str().into();
                }
                let debug = self.attributes.as_bytes().get(1).is_some_and(|digit| (digit - b'0') & 1 == 1);
                json!({
                    "tdx": { "quote": { "body": body }, "td_attributes": { "debug": debug, "septve_disable": true } },
                    "init_data": self.initdata,
                })
            }
        };
        let affirming = |evidence: Value| json!({ "ear.status": "affirming", "ear.veraison.annotated-evidence": evidence });
        let mut submods = json!({ "cpu0": affirming(evidence) });
        for rank in 0..self.gpus {
            submods[format!("gpu{rank}")] = affirming(json!({ "nvidia": {
                "secboot": true, "dbgstat": "disabled", "measres": "success", "hwmodel": self.model.hwmodel(),
                "ueid": format!("4780{rank}"), "x-nvidia-overall-att-result": true,
            } }));
        }
        if self.model == Model::Hopper && self.gpus > 1 {
            for rank in 0..4 {
                submods[format!("switch{rank}")] = affirming(json!({ "nvidia": { "measres": "success" } }));
            }
            submods["ppcie0"] = affirming(json!({}));
        }
        json!({ "submods": submods })
    }
}
