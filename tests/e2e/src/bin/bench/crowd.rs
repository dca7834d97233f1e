//! Several pods at once, through containerd.

use std::time::Instant;

use e2e::{BUSYBOX, Run};
use futures_util::future::join_all;

use crate::report::Report;

/// Measures, and reports.
pub async fn measure(report: &mut Report) {
    for number in [1, 2, 4, 8] {
        let runs: Vec<Run> = (0..number)
            .map(|index| Run::new(&format!("crowd-{number}-{index}"), BUSYBOX, &["sleep", "100000"]))
            .collect();
        let begin = Instant::now();
        let containers = join_all(runs.iter().map(Run::start)).await;
        let took = begin.elapsed().as_secs_f64();
        for container in containers {
            container.remove().await;
        }
        report.add(format!("{number} pod(s) at once, until all run"), took, "s");
    }
}
