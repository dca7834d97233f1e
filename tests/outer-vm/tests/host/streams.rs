//! Output over the kernel's own vsock: in larger pieces than vhost-device-vsock carries.

use std::time::{Duration, Instant};

use agent_client::{AGENT_PORT, Endpoint};
use e2e::direct::read_loop;
use e2e::{BUSYBOX, OrFail, Run, e2e_in_outer_vm};

use crate::nudge;

/// What a process writes, in bytes.
const OUTPUT: u64 = 16 << 20;
/// What the shim asks for at once, over vhost-device-vsock and over the kernel's vsock, in bytes.
const PIECES: [usize; 2] = [16 << 10, 64 << 10];

#[test]
fn output_is_whole_in_pieces_of_a_pipe_over_the_kernels_vsock() {
    e2e_in_outer_vm(async |rig| {
        nudge::keep_awake();
        let config = rig.config().set("accel", "\"kvm\"").set("default_memory_mib", "256").write("streams");
        let container = Run::new("streams", BUSYBOX, &["sleep", "100000"]).config(&config).start().await;
        let cid = nudge::guests().next().or_fail("the VM's context id");
        let agent = agent_client::connect(&Endpoint::Vsock { cid, port: AGENT_PORT }).await;
        let agent = agent.or_fail("a second connection to the agent");
        for piece in PIECES {
            let command = ["head", "-c", &OUTPUT.to_string(), "/dev/zero"];
            let took = read_loop(&agent, "streams", &command, OUTPUT, piece).await;
            println!("the agent's ReadStdout loop, {} KiB a call: {}", piece >> 10, rate(took));
        }
        let begin = Instant::now();
        let script = format!("head -c {OUTPUT} /dev/zero | tr '\\0' x");
        let text = container.exec(&["sh", "-c", &script]).await.succeeded();
        println!("through the shim: {}", rate(begin.elapsed()));
        assert_eq!((text.len() as u64, text.bytes().all(|byte| byte == b'x')), (OUTPUT, true));
        container.remove().await;
    });
}

fn rate(took: Duration) -> String {
    let mib = u32::try_from(OUTPUT >> 20).or_fail("a small number");
    format!("{:.1} MiB/s", f64::from(mib) / took.as_secs_f64())
}
