//! Pods with GPUs through CRI: kubelet says which, and it may be missing, slow, or speak of another pod.

use std::time::Duration;

use e2e::{BUSYBOX, GpuNode, Gpus, OrFail, e2e_with_gpus};

const FOREVER: [&str; 2] = ["sleep", "100000"];
const SOCKET: &str = GpuNode::SOCKET;

/// Nobody has it, and nobody did anything to it.
fn untouched(gpus: &Gpus, index: usize) {
    let state = gpus.state(index);
    assert_eq!((gpus.holder(index), gpus.quarantined(index), state.resets), (None, None, 0));
}

#[test]
fn a_pod_that_names_a_gpu_does_not_start_without_kubelets_socket() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        let pod = rig.pod("no-kubelet").await.annotation("cdi.k8s.io/gpu", "nvidia.com/pgpu=0");
        let text = pod.try_start().await.err().or_fail("a refusal").to_string();
        for words in ["default/no-kubelet", SOCKET, "is missing"] {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
        untouched(&gpus, 0);
    });
}

#[test]
fn a_container_with_a_gpu_that_no_kubelet_told_of_does_not_start_without_it() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        // CRI names devices only with containers: the pod itself asks for nothing.
        let mut pod = rig.pod("untold").await.start().await;
        rig.logged(&["kubelet's socket", SOCKET, "is missing"]).await;
        let run = pod.try_run_with_device("main", BUSYBOX, &FOREVER, "nvidia.com/pgpu=0").await;
        let text = run.err().or_fail("a refusal").to_string();
        for words in ["0000:40:00.0", SOCKET, "is missing"] {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
        pod.remove().await;
        untouched(&gpus, 0);
    });
}

#[test]
fn a_slow_kubelet_is_waited_for_and_its_gpu_goes_to_the_pod() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(2);
        let _node = GpuNode::new("slow", "uid-slow", "1", Duration::from_secs(3));
        let mut pod = rig.pod("slow").await.start().await;
        assert_eq!((gpus.holder(0), gpus.holder(1)), (None, Some(pod.id.clone())));
        let container = pod.try_run_with_device("main", BUSYBOX, &FOREVER, "nvidia.com/pgpu=1").await;
        container.or_fail("a container with the GPU");
        pod.remove().await;
        gpus.free(1).await;
        untouched(&gpus, 0);
    });
}

#[test]
fn a_gpu_of_another_pods_uid_stops_the_start() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        // The pod of this name before this one, whose end kubelet has not seen yet.
        let _node = GpuNode::new("heir", "uid-earlier", "0", Duration::ZERO);
        let text = rig.pod("heir").await.try_start().await.err().or_fail("a refusal").to_string();
        for words in ["uid-earlier", "default/heir (uid-heir)", "try again"] {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
        untouched(&gpus, 0);
    });
}
