//! The real vhost-device-vsock, found in PATH; without it the tests say so and pass.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use host_claims::process::Process;
use host_claims::vsock::{PROGRAM, Vsock, VsockPlan, VsockRecord, find_program};

fn search() -> Option<Vec<PathBuf>> {
    let search: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let found = find_program(PROGRAM, &search).is_ok();
    if !found {
        eprintln!("SKIPPED: no {PROGRAM} in PATH");
    }
    found.then_some(search)
}

#[tokio::test]
async fn the_program_serves_both_sockets_and_its_record_ends_it() {
    let Some(search) = search() else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = find_program(PROGRAM, &search).unwrap();
    let plan = VsockPlan::User { program, state_dir: dir.path().to_owned() };
    let before = plan.record();
    let Vsock::User(line) = plan.claim(None).await.unwrap() else { panic!("not the kernel's") };
    UnixStream::connect(line.hybrid_socket()).unwrap();
    assert!(line.vhost_user_socket().exists());
    let identity = line.identity();
    let record = Vsock::User(line).record();
    assert_eq!(record, VsockRecord::User { state_dir: dir.path().to_owned(), process: Some(identity) });
    record.release().await.unwrap();
    record.release().await.unwrap();
    before.release().await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while Process::open(identity).unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}
