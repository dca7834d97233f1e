//! What a container says last: its termination message, and its output where it has none. Who learns of its end reads both at
//! once: CRI-O when the task has stopped, kubelet when the engine says so.

use std::fs;

use e2e::{Api, BUSYBOX, Bundle, OrFail, PodDirectory, ShimProcess, Task, Victim, e2e};

const FOREVER: [&str; 2] = ["sleep", "100000"];
const PATH: &str = "/dev/termination-log";

fn longest() -> String {
    let all: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    all[..4096].to_owned()
}

#[test]
fn a_termination_message_is_there_when_the_end_is() {
    e2e(async |rig| {
        let mut pod = rig.pod("words").await.start().await;
        let replaced =
            "rm -f F; ln -sf /etc/passwd F; ln -sf /etc/passwd F.new; mv F.new F; echo mine > F; true";
        let long = longest();
        let cases = [
            ("message", PATH, "echo first > F; echo -n last > F; exit 3", 3, "last"),
            ("none", PATH, "exit 4", 4, ""),
            ("long", PATH, "seq 2000 > F", 0, long.as_str()),
            ("replaced", PATH, replaced, 0, "mine\n"),
            ("childs", PATH, "(echo child > F; sleep 1000) & sleep 1; exit 5", 5, "child\n"),
            ("elsewhere", "/var/log/last", "echo there > F", 0, "there\n"),
            ("no-text", PATH, r"printf '\377' > F", 0, "\u{fffd}"),
        ];
        for (name, path, script, code, said) in cases {
            let (mount, file) = pod.directory.termination_log(name, path);
            let script = script.replace('F', path);
            let container = pod.run(name, BUSYBOX, &["sh", "-c", &script], vec![mount]).await;
            assert_eq!(container.exited().await, code, "{name}");
            assert_eq!(fs::read_to_string(file).or_fail("read it"), said, "{name}");
            pod.cri.remove(&container.id).await;
        }

        // Without a message kubelet takes the end of the log, where the pod's manifest says so.
        let (mount, file) = pod.directory.termination_log("logs", PATH);
        let script = "seq 3000; echo what went wrong >&2; exit 6";
        let container = pod.run("logs", BUSYBOX, &["sh", "-c", script], vec![mount]).await;
        assert_eq!(container.exited().await, 6);
        let log = container.log();
        assert!(log.contains("stderr F what went wrong\n") && log.contains(" 3000\n"), "{log}");
        assert_eq!(fs::read_to_string(file).or_fail("read it"), "");

        // Written by an exec, and told of a container that is killed.
        let (mount, file) = pod.directory.termination_log("exec", PATH);
        let container = pod.run("exec", BUSYBOX, &FOREVER, vec![mount]).await;
        container.exec(&["sh", "-c", "echo of an exec > /dev/termination-log"]).await;
        pod.cri.stop(&container.id, 0).await;
        assert_eq!(fs::read_to_string(file).or_fail("read it"), "of an exec\n");
        pod.remove().await;
    });
}

/// CRI-O reads it when Wait is answered, and deletes the task later.
#[test]
fn crio_finds_a_termination_message_before_it_deletes_anything() {
    const NAMESPACE: &str = "default";
    e2e(async |rig| {
        let sandbox = Bundle::of_crio("words-pod", "words-pod", &FOREVER);
        let address = ShimProcess::new(&rig.artefacts, NAMESPACE, &sandbox).start().await.bare_address();
        let task = Task::connect(&address, Api::V2).await;
        task.create(&sandbox).await.or_fail("Create of the sandbox");
        task.start("words-pod", "").await.or_fail("Start of the sandbox");

        let directory = PodDirectory::new("uid-words-pod");
        let (mount, file) = directory.termination_log("app", PATH);
        let command = ["sh", "-c", "echo last words > /dev/termination-log; exit 7"];
        let container = Bundle::of_crio_with("words-app", "words-pod", &command, &[mount]);
        ShimProcess::new(&rig.artefacts, NAMESPACE, &container).start().await.bare_address();
        task.create(&container).await.or_fail("Create of the container");
        task.start("words-app", "").await.or_fail("Start of the container");
        assert_eq!(task.wait("words-app", "").await.or_fail("Wait").exit_status, 7);
        assert_eq!(fs::read_to_string(&file).or_fail("read it"), "last words\n");
        task.delete("words-app", "").await.or_fail("Delete");
        assert_eq!(fs::read_to_string(&file).or_fail("read it"), "last words\n");

        task.remove("words-pod").await;
        let _ = task.shutdown("words-pod").await;
        Victim::Shim.gone().await;
        ShimProcess::new(&rig.artefacts, NAMESPACE, &sandbox).delete().await;
    });
}
