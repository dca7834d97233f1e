//! Many pods, and many shims that die: nothing accumulates.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::{BUSYBOX, Machine, Random, Rig, Run, Victim, e2e};
use tokio::time::sleep;

#[test]
fn fifty_pods_four_at_a_time_leave_nothing() {
    e2e(async |rig| {
        let next = AtomicUsize::new(0);
        tokio::join!(pods(rig, &next), pods(rig, &next), pods(rig, &next), pods(rig, &next));
    });
}

/// Starts and removes pods until fifty were begun. Every fifth one has a container.
async fn pods(rig: &Rig<'_>, next: &AtomicUsize) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= 50 {
            return;
        }
        let mut pod = rig.pod(&format!("soak-{number}")).await.start().await;
        if number.is_multiple_of(5) {
            let container = pod.run("only", BUSYBOX, &["sh", "-c", "exit 5"], vec![]).await;
            assert_eq!(container.exited().await, 5);
        }
        pod.remove().await;
    }
}

#[test]
fn twenty_shims_killed_at_random_moments_leave_nothing() {
    e2e(async |_| {
        let mut random = Random::new();
        for round in 0..20 {
            let before = Machine::now();
            let id = format!("victim-{round}");
            let run = Run::new(&id, BUSYBOX, &["sleep", "100000"]);
            // From the moment of the start to well after the container runs.
            let delay = Duration::from_millis(random.below(5000));
            let kill = async {
                sleep(delay).await;
                Victim::Shim.kill();
            };
            tokio::join!(run.try_start(), kill);
            run.clear().await;
            println!("round {round}: killed after {} ms", delay.as_millis());
            Machine::back_to(&before).await;
        }
    });
}
