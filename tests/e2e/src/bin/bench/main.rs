//! What Coffer costs: boot time against bare QEMU, the shim's memory and CPU time, execs, streams, crowds, image
//! layers, GPUs, measurements. Run by `make bench`; prints a table and writes `build/bench.json`. Arguments name the parts to
//! measure; none: all.

mod boot;
mod console;
mod crowd;
mod gpu;
mod layers;
mod lone;
mod measure;
mod report;
mod shim;
mod streams;

use std::env;

use e2e::{Artefacts, Containerd, NodeConfig, import_images};

use report::Report;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let artefacts = Artefacts::find();
    let mut report = Report::default();
    let parts: Vec<String> = env::args().skip(1).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|named| named == part);
    if wanted("measure") {
        measure::measure(&artefacts, &mut report);
    }
    if !parts.is_empty() && parts.iter().all(|part| part == "measure") {
        return report.write();
    }
    NodeConfig::of_rig(&artefacts).install();
    let mut containerd = Containerd::start(&artefacts).await;
    import_images().await;
    if wanted("boot") {
        boot::measure(&artefacts, &mut report).await;
    }
    if wanted("shim") {
        shim::measure(&artefacts, &mut report).await;
    }
    if wanted("cpu") {
        shim::cpu_time(&artefacts, &mut report).await;
        console::measure(&mut report).await;
    }
    if wanted("streams") {
        streams::measure(&artefacts, &mut report).await;
    }
    if wanted("crowd") {
        crowd::measure(&mut report).await;
    }
    if wanted("layers") {
        layers::measure(&artefacts, &mut report).await;
    }
    if wanted("gpu") {
        gpu::measure(&containerd, &mut report).await;
    }
    containerd.crash();
    report.write();
}
