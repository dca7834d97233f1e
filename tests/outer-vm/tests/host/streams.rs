//! Output over the kernel's own vsock: in larger pieces than vhost-device-vsock carries.

use std::time::{Duration, Instant};

use agent_client::proto::oci;
use agent_client::{AGENT_PORT, Agent, Endpoint, ProcessRef};
use e2e::{BUSYBOX, OrFail, Run, e2e_in_outer_vm, within};

use crate::nudge;

const LIMIT: Duration = Duration::from_secs(120);
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
            let took = read(&agent, "streams", piece).await;
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

/// An exec whose output nothing but a loop reads.
async fn read(agent: &Agent, container: &str, piece: usize) -> Duration {
    let exec = ProcessRef::exec(container, "direct");
    let command = ["head", "-c", &OUTPUT.to_string(), "/dev/zero"];
    let process = oci::Process {
        Args: command.iter().map(|word| (*word).to_owned()).collect(),
        Cwd: "/".to_owned(),
        Env: vec!["PATH=/bin".to_owned()],
        User: protobuf::MessageField::some(oci::User::default()),
        Capabilities: protobuf::MessageField::some(oci::LinuxCapabilities::default()),
        ..oci::Process::default()
    };
    let begin = Instant::now();
    agent.exec_process(container, "direct", process).await.or_fail("ExecProcess");
    let read = within("the output", LIMIT, async {
        let mut read = 0;
        while let Ok(chunk) = agent.read_stdout(exec, piece).await
            && !chunk.is_empty()
        {
            read += chunk.len() as u64;
        }
        read
    })
    .await;
    let took = begin.elapsed();
    assert_eq!(read, OUTPUT, "output is complete, {piece} bytes a call");
    agent.wait_process(exec).await.or_fail("WaitProcess");
    took
}
