//! What a verifier has to know of all pods.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use pod_manifest::{Document, Template};

use super::seal::{ANNOTATION, Sealed};
use crate::measure::{Class, Place, demand, trustee_output};

/// Prints what `coffer measure -o trustee` prints, for all pods together: a KBS has one policy for all its resources, and
/// RVPS one list for each value. It can be merged with others (`coffer measure merge`).
pub(super) fn print<'a>(
    pods: impl Iterator<Item = (&'a Document, &'a Template, &'a str, &'a Sealed)>,
    place: &Place,
    out: &mut impl Write,
) -> Result<()> {
    let (mut all, mut names) = (Vec::new(), BTreeSet::new());
    for (_, template, class, sealed) in pods {
        let name = format!("{} {}", template.owner.kind, sealed.pod.name);
        let Some(class) = Class::of(class) else {
            bail!(
                "{name}: the class {class:?} is of no confidential VM that can be measured: coffer-snp and coffer-tdx are"
            );
        };
        let resources: Vec<_> = place.resources(&sealed.pod.name).collect();
        ensure!(
            !resources.is_empty(),
            "{name}: say what of the KBS it may have: --resource {}=REPOSITORY/TYPE/TAG, or without the name for all pods",
            sealed.pod.name
        );
        names.insert(sealed.pod.name.clone());
        let mut pod = sealed.pod.clone();
        pod.annotations.insert(ANNOTATION.to_owned(), sealed.annotation.clone());
        let demand = demand(pod, class, place).with_context(|| name.clone())?;
        all.push(demand.for_trustee(resources));
    }
    if let Some(name) = place.pods().find(|name| !names.contains(*name)) {
        bail!("--resource names the pod {name:?}, and there are {}", Vec::from_iter(names).join(", "));
    }
    writeln!(out, "{}", serde_json::to_string_pretty(&trustee_output(all)?)?)?;
    Ok(())
}
