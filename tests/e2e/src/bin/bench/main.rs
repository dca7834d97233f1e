//! What Coffer costs: boot time against bare QEMU, the shim's memory and CPU time, execs, streams, crowds. Run by
//! `make bench`; prints a table and writes `build/bench.json`.

mod boot;
mod crowd;
mod lone;
mod report;
mod shim;
mod streams;

use e2e::{Artefacts, Containerd, NodeConfig, import_images};

use report::Report;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let artefacts = Artefacts::find();
    NodeConfig::of_rig(&artefacts).install();
    let mut containerd = Containerd::start(&artefacts).await;
    import_images().await;
    let mut report = Report::default();
    boot::measure(&artefacts, &mut report).await;
    shim::measure(&artefacts, &mut report).await;
    streams::measure(&artefacts, &mut report).await;
    crowd::measure(&mut report).await;
    containerd.crash();
    report.write();
}
