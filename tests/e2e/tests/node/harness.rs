//! The rig itself, without Coffer: what fails here is not the product's fault.

use e2e::{BUSYBOX, LAYERED, Run, ctr, e2e};

#[test]
fn containerd_offers_coffers_handlers() {
    e2e(async |rig| {
        let handlers = rig.cri().await.handlers().await;
        for name in ["coffer", "coffer-sandbox", "coffer-configured"] {
            assert!(handlers.iter().any(|handler| handler == name), "{handlers:?}");
        }
    });
}

#[test]
fn the_images_run_under_runc() {
    e2e(async |_| {
        for (image, file) in [(BUSYBOX, "/etc/passwd"), (LAYERED, "/layers/top")] {
            let words = ["run", "--rm", "--snapshotter", "erofs", image, "control", "cat", file];
            let text = ctr(&words).await.succeeded();
            assert!(!text.is_empty(), "{image} has an empty {file}");
        }
    });
}

#[test]
fn a_pod_runs_under_runc_with_logs_volumes_and_network() {
    e2e(async |rig| {
        let mut pod = rig.pod("control").await.handler("runc").start().await;
        let map = pod.directory.configmap("app", &[("mode", "one")], "/etc/app");
        let talk = ["sh", "-c", "echo out-line; echo err-line >&2; exec sleep 100000"];
        let container = pod.run("control", BUSYBOX, &talk, vec![map]).await;
        container.logged("stdout", "out-line").await;
        container.logged("stderr", "err-line").await;
        assert_eq!(container.exec(&["cat", "/etc/app/mode"]).await, "one");
        for address in ["10.99.0.1", "fd99::1"] {
            container.exec(&["ping", "-c", "1", "-W", "5", address]).await;
        }
        pod.remove().await;
    });
}

#[test]
fn an_unknown_image_is_refused_before_any_shim_starts() {
    e2e(async |_| {
        let run = Run::new("none", "localhost/none:test", &["true"]).to_end().await;
        run.failed_with(&["localhost/none:test", "not found"]);
    });
}
