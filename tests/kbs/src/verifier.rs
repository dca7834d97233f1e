//! Evidence to claims, as Trustee's verifiers make them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kbs_types::{InitData, Tee};
use measurement::initdata::InitData as Document;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha384};

use crate::{hopper, snp, tdx};

/// What a verifier found of a device.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) tee: Tee,
    /// `cpu` or `gpu`.
    pub(crate) class: &'static str,
    pub(crate) claims: Value,
    pub(crate) runtime: Value,
    pub(crate) initdata: Value,
    /// What Trustee's own appraisal would come to: without reference values, evidence of `sample` is no good.
    pub(crate) status: &'static str,
}

#[derive(Deserialize)]
struct Sample {
    svn: String,
    report_data: String,
}

#[derive(Deserialize)]
struct Nvidia {
    device_evidence_list: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    arch: String,
    evidence: String,
    certificate: String,
}

/// The verifiers.
pub(crate) struct Verifier<'a> {
    pub(crate) gpu_root: Option<&'a [u8]>,
    pub(crate) chips: Option<&'a snp::Chips>,
    pub(crate) platform_root: Option<&'a [u8]>,
    pub(crate) references: &'a BTreeMap<String, Value>,
}

impl Verifier<'_> {
    pub(crate) fn verify(
        &self,
        tee: Tee,
        evidence: Value,
        runtime: &Value,
        initdata: Option<&InitData>,
    ) -> Result<Vec<Part>> {
        let hash: [u8; 48] = Sha384::digest(serde_json_canonicalizer::to_vec(runtime)?).into();
        match tee {
            Tee::Sample | Tee::SampleDevice => {
                sample(tee, evidence, &hash, runtime, initdata).map(|part| vec![part])
            }
            Tee::Nvidia => {
                let root = self.gpu_root.context("no GPU is known here")?;
                let list: Nvidia = serde_json::from_value(evidence)?;
                let devices = list.device_evidence_list.into_iter();
                devices.map(|device| nvidia(&device, root, &hash, runtime)).collect()
            }
            Tee::Snp | Tee::Tdx => {
                self.confidential(tee, evidence, &hash, runtime, initdata).map(|part| vec![part])
            }
            other => bail!("there is no verifier for {other}"),
        }
    }

    fn confidential(
        &self,
        tee: Tee,
        evidence: Value,
        hash: &[u8; 48],
        runtime: &Value,
        initdata: Option<&InitData>,
    ) -> Result<Part> {
        let document = initdata.map(document).transpose()?;
        let (claims, status) = if tee == Tee::Snp {
            let chips = self.chips.context("no chip is known here")?;
            let claims = snp::verify(&evidence, hash, document.as_ref(), chips)?;
            let status = snp::status(&claims, self.references);
            (claims, status)
        } else {
            let root = self.platform_root.context("no platform is known here")?;
            let claims = tdx::verify(evidence, hash, document.as_ref(), root)?;
            let status = tdx::status(&claims, self.references);
            (claims, status)
        };
        Ok(Part {
            tee,
            class: "cpu",
            status,
            claims,
            runtime: runtime.clone(),
            initdata: document.as_ref().map_or(Value::Null, initdata_claims),
        })
    }
}

fn document(initdata: &InitData) -> Result<Document> {
    ensure!(initdata.format == "toml", "initdata in another format than toml");
    Ok(Document::parse(initdata.body.clone().into_bytes())?)
}

fn sample(
    tee: Tee,
    evidence: Value,
    hash: &[u8; 48],
    runtime: &Value,
    initdata: Option<&InitData>,
) -> Result<Part> {
    let evidence: Sample = serde_json::from_value(evidence)?;
    ensure!(
        STANDARD.decode(&evidence.report_data)? == hash,
        "REPORT_DATA is different from that in the evidence"
    );
    let mut claims = Map::new();
    claims.insert("svn".into(), evidence.svn.into());
    claims.insert("report_data".into(), evidence.report_data.into());
    let mut parsed = Value::Null;
    if tee == Tee::Sample {
        claims.insert("launch_digest".into(), "abcde".into());
        claims.insert("debug".into(), false.into());
        if let Some(initdata) = initdata {
            let document = document(initdata)?;
            claims.insert("init_data".into(), STANDARD.encode(document.digest()).into());
            parsed = initdata_claims(&document);
        }
    }
    let class = if tee == Tee::Sample { "cpu" } else { "gpu" };
    Ok(Part {
        tee,
        class,
        claims: claims.into(),
        runtime: runtime.clone(),
        initdata: parsed,
        status: "contraindicated",
    })
}

/// The texts of initdata; those that are TOML as objects.
fn initdata_claims(document: &Document) -> Value {
    let claim = |(name, text): (&String, &String)| {
        let table = name.ends_with(".toml").then(|| toml::from_str::<Value>(text).ok()).flatten();
        (name.clone(), table.unwrap_or_else(|| text.clone().into()))
    };
    Value::Object(document.data().iter().map(claim).collect())
}

/// With the claims that NVIDIA's service makes (version 3), by its names.
fn nvidia(device: &Device, root: &[u8], hash: &[u8; 48], runtime: &Value) -> Result<Part> {
    ensure!(device.arch == "HOPPER", "the architecture {:?} is not known here", device.arch);
    let chain = String::from_utf8(STANDARD.decode(&device.certificate)?)?;
    let report = hopper::verify(&STANDARD.decode(&device.evidence)?, &chain, root)?;
    ensure!(report.nonce == hash[..32], "the GPU's nonce is another session's");
    let claims = json!({
        "secboot": true,
        "dbgstat": "disabled",
        "measres": if report.golden { "success" } else { "fail" },
        "hwmodel": "GH100 A01 GSP BROM",
        "ueid": report.ueid,
        "x-nvidia-gpu-driver-version": report.driver,
        "x-nvidia-overall-att-result": report.golden,
    });
    let status = if report.golden { "affirming" } else { "contraindicated" };
    let runtime = runtime.clone();
    Ok(Part { tee: Tee::Nvidia, class: "gpu", claims, runtime, initdata: Value::Null, status })
}
