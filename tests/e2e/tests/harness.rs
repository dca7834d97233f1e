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
            // Without a cgroup: runc would leave its parents behind on the host.
            let words =
                ["run", "--rm", "--cgroup", "", "--snapshotter", "erofs", image, "control", "cat", file];
            let text = ctr(&words).await.succeeded();
            assert!(!text.is_empty(), "{image} has an empty {file}");
        }
    });
}

#[test]
fn an_unknown_image_is_refused_before_any_shim_starts() {
    e2e(async |_| {
        let run = Run::new("none", "localhost/none:test", &["true"]).to_end().await;
        run.failed_with(&["localhost/none:test", "not found"]);
    });
}
