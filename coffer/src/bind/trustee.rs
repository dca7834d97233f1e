//! What a verifier has to know of all pods.

use std::io::Write;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pod_manifest::{Document, Template};
use serde_json::{Map, Value, json};

use super::seal::{ANNOTATION, Sealed};
use crate::measure::{Class, Place, demand, trustee_output};

/// Prints the values of all pods together, so that one message to Trustee's RVPS overwrites none of them, and each pod's
/// resource policy.
pub(super) fn print<'a>(
    pods: impl Iterator<Item = (&'a Document, &'a Template, &'a str, &'a Sealed)>,
    place: &Place,
    out: &mut impl Write,
) -> Result<()> {
    let mut values: Map<String, Value> = Map::new();
    let mut all = Vec::new();
    for (_, template, class, sealed) in pods {
        let name = format!("{} {}", template.owner.kind, sealed.pod.name);
        let Some(class) = Class::of(class) else {
            bail!(
                "{name}: the class {class:?} is of no confidential VM that can be measured: coffer-snp and coffer-tdx are"
            );
        };
        let mut pod = sealed.pod.clone();
        pod.annotations.insert(ANNOTATION.to_owned(), sealed.annotation.clone());
        let demand = demand(pod, class, place).with_context(|| name.clone())?;
        let one = trustee_output(&demand);
        for (field, list) in one["reference_values"].as_object().into_iter().flatten() {
            let known = values.entry(field.clone()).or_insert_with(|| json!([]));
            let (Some(known), Some(list)) = (known.as_array_mut(), list.as_array()) else { continue };
            for value in list {
                if !known.contains(value) {
                    known.push(value.clone());
                }
            }
        }
        all.push(json!({
            "pod": sealed.pod.name,
            "kind": template.owner.kind,
            "namespace": template.owner.namespace,
            "class": class.name(),
            "initdata": { "host_data": sealed.initdata.host_data().to_string(),
                "mrconfigid": sealed.initdata.mr_config_id().to_string() },
            "reference_values": one["reference_values"],
            "resource_policy": one["resource_policy"],
        }));
    }
    let payload = STANDARD.encode(Value::Object(values.clone()).to_string());
    let object = json!({
        "rvps_message": { "version": "0.1.0", "type": "sample", "payload": payload },
        "reference_values": values,
        "pods": all,
    });
    writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
    Ok(())
}
