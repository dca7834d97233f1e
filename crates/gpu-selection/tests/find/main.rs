//! Which GPUs a pod gets: by kubelet, CDI and the bundle, over a host in a folder.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod host;
mod kubelet;

use std::error::Error as _;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use gpu_selection::{Error, Note, Request, Source, Wish, group};
use host::{Host, plain, web};
use kubelet::{Behaviour, CdiDevice, Claim, Dynamic, Kubelet, pod};

const SHORT: Duration = Duration::from_secs(2);
/// The kind of the DRA driver's devices.
const CLAIM: &str = "k8s.gpu.nvidia.com/claim";

fn addresses(request: &Request) -> Vec<String> {
    request.assigned.iter().map(|assigned| assigned.address.to_string()).collect()
}

async fn by_kubelet(host: &Host, behaviour: Behaviour) -> Result<Request, Error> {
    Kubelet::new(behaviour).serve(&host.kubelet());
    host.finder().pod(&web(&[], &[]), Wish::Unknown, SHORT).await
}

fn gives(devices: &[(&str, &[&str])]) -> Behaviour {
    Behaviour {
        pods: vec![pod("other", &[("nvidia.com/pgpu", &["vfio4"])]), pod("web", devices)],
        ..Behaviour::default()
    }
}

#[tokio::test]
async fn kubelet_gives_by_vfio_name_by_group_and_by_cdi() {
    for (id, cdi) in
        [("vfio3", None), ("17", None), ("0", Some("0")), ("vfio3", Some("vfio3")), ("17", Some("17"))]
    {
        let host = Host::new();
        host.checkpoint("uid-1", id);
        if let Some(name) = cdi {
            host.cdi("nvidia.com/pgpu", &[(name, "/dev/vfio/devices/vfio3")]);
        }
        let request =
            by_kubelet(&host, gives(&[("nvidia.com/pgpu", &[id]), ("vendor.io/nic", &["x"])])).await.unwrap();
        assert_eq!(addresses(&request), ["0000:41:00.0"], "{id}");
        let Source::Plugin { container, resource, .. } = &request.assigned[0].source else {
            panic!("{request:?}")
        };
        assert_eq!((container.as_str(), resource.as_str()), ("main", "nvidia.com/pgpu"));
        let [Note::Ignored(source)] = &request.notes[..] else { panic!("{:?}", request.notes) };
        assert!(source.to_string().contains("vendor.io/nic"), "{source}");
    }
}

/// A pod that has these by claims.
fn claims(names: &[&str]) -> Behaviour {
    let mut behaviour = gives(&[]);
    let devices = names.iter().map(|name| CdiDevice { name: (*name).to_owned() }).collect();
    behaviour.pods[1].containers[0].dynamic.push(Dynamic { claims: vec![Claim { devices }] });
    behaviour
}

#[tokio::test]
async fn list_answers_where_get_is_off_and_claims_are_read() {
    let host = Host::new();
    host.cdi(CLAIM, &[("8c5d-gpu-vfio-0", "/dev/vfio/18"), ("9e1f-gpu-vfio-1", "/dev/vfio/17")]);
    let name = format!("{CLAIM}=8c5d-gpu-vfio-0");
    let behaviour = Behaviour { no_get: true, ..claims(&[&name]) };
    let request = by_kubelet(&host, behaviour).await.unwrap();
    assert_eq!(addresses(&request), ["0000:42:00.0"]);
    assert!(matches!(&request.assigned[0].source, Source::Claim { name: by, .. } if *by == name));
}

/// Names and nodes as the DRA driver writes them: `GetClaimDeviceName` of NVIDIA/k8s-dra-driver-gpu's cdi.go and
/// vfio-cdi.go; those of class `device` until 25.12.
#[tokio::test]
async fn gpus_of_the_dra_driver_go_to_the_vm_or_stop_it() {
    let device = CLAIM.replace("claim", "device");
    for (kind, name, node, expected) in [
        (CLAIM, "8c5d-gpu-vfio-0", "/dev/vfio/18", Some("0000:42:00.0")),
        (CLAIM, "8c5d-gpu-vfio-0", "/dev/vfio/devices/vfio3", Some("0000:41:00.0")),
        (&device, "gpu-vfio-0", "/dev/vfio/18", Some("0000:42:00.0")),
        (CLAIM, "8c5d-gpu-0", "/dev/nvidia0", None),
        (&device, "gpu-0", "/dev/nvidia0", None),
    ] {
        let host = Host::new();
        host.cdi(kind, &[(name, node)]);
        match (by_kubelet(&host, claims(&[&format!("{kind}={name}")])).await, expected) {
            (Ok(request), Some(address)) => assert_eq!(addresses(&request), [address], "{kind}={name}"),
            (Err(Error::NotPassthrough { by, .. }), None) => assert!(by.to_string().contains(name), "{by}"),
            (other, _) => panic!("{kind}={name} on {node}: {other:?}"),
        }
    }
    // Its driver for channels between nodes has no GPUs.
    let host = Host::new();
    let request = by_kubelet(&host, claims(&["k8s.compute-domain.nvidia.com/claim=8c5d-channel-0"])).await;
    assert!(matches!(request.unwrap().notes[..], [Note::Ignored(_)]));
}

#[tokio::test]
async fn a_pod_without_gpus_is_one() {
    let host = Host::new();
    assert_eq!(by_kubelet(&host, gives(&[])).await.unwrap(), Request::default());
    let error = host.finder().pod(&web(&[], &[]), Wish::Gpus, SHORT).await.unwrap_err();
    assert!(matches!(error, Error::None), "{error}");
}

#[tokio::test]
async fn kubelet_that_starts_is_waited_for() {
    let host = Host::new();
    let behaviour = Behaviour { unavailable: 3, ..gives(&[("nvidia.com/pgpu", &["vfio3"])]) };
    let kubelet = Kubelet::new(behaviour);
    kubelet.serve(&host.kubelet());
    let request = host.finder().pod(&web(&[], &[]), Wish::Unknown, SHORT).await.unwrap();
    assert_eq!(addresses(&request), ["0000:41:00.0"]);
    assert_eq!(kubelet.0.lock().unwrap().calls, 4);
}

#[tokio::test]
async fn kubelet_that_does_not_get_ready_is_an_error_in_time() {
    let text = |error: &Error| error.source().unwrap().to_string();
    let host = Host::new();
    let error = by_kubelet(&host, Behaviour { unavailable: u32::MAX, ..gives(&[]) }).await.unwrap_err();
    assert!(text(&error).contains("status 14: \"starting\""), "{error:?}");
    // A socket that nobody serves any more.
    let host = Host::new();
    std::fs::create_dir_all(host.kubelet().join("pod-resources")).unwrap();
    drop(UnixListener::bind(host.kubelet().join("pod-resources/kubelet.sock")).unwrap());
    let error = host.finder().pod(&web(&[], &[]), Wish::Unknown, SHORT).await.unwrap_err();
    assert!(text(&error).contains("cannot connect"), "{error:?}");
    // One that does not answer.
    let host = Host::new();
    let start = std::time::Instant::now();
    let slow = Behaviour { delay: Duration::from_secs(60), ..gives(&[]) };
    let error = by_kubelet(&host, slow).await.unwrap_err();
    assert!(text(&error).contains("did not answer"), "{error:?}");
    assert!(start.elapsed() < SHORT * 2);
    // One that does not know the pod.
    let host = Host::new();
    let error = by_kubelet(&host, Behaviour::default()).await.unwrap_err();
    assert!(text(&error).contains("does not know the pod"), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_slow_but_comes_is_good() {
    let host = Host::new();
    let slow = Behaviour { delay: Duration::from_millis(500), ..gives(&[("nvidia.com/pgpu", &["vfio3"])]) };
    assert_eq!(addresses(&by_kubelet(&host, slow).await.unwrap()), ["0000:41:00.0"]);
}

#[tokio::test]
async fn an_oversized_answer_is_refused() {
    let host = Host::new();
    let ids = vec!["x".repeat(1_000); 5_000];
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let behaviour = Behaviour { no_get: true, ..gives(&[("vendor.io/x", &ids)]) };
    let error = by_kubelet(&host, behaviour).await.unwrap_err();
    let text = error.source().unwrap().to_string();
    assert!(text.contains("more than 4194304 bytes"), "{error:?}");
}

#[tokio::test]
async fn a_missing_socket_is_an_error_for_who_asks_for_gpus() {
    let host = Host::new();
    host.cdi("nvidia.com/pgpu", &[("0", "/dev/vfio/devices/vfio3")]);
    let finder = host.finder();
    for (facts, wish) in [
        (web(&[], &[]), Wish::Gpus),
        (web(&[("cdi.k8s.io/gpu", "nvidia.com/pgpu=0")], &[]), Wish::Unknown),
        (web(&[], &["/dev/vfio/devices/vfio3"]), Wish::Unknown),
    ] {
        let error = finder.pod(&facts, wish, SHORT).await.unwrap_err();
        assert!(matches!(error, Error::NoSocket { .. }), "{error:?}");
    }
    let request = finder.pod(&web(&[], &[]), Wish::Unknown, SHORT).await.unwrap();
    assert!(matches!(request.notes[..], [Note::NoKubelet(_)]) && request.assigned.is_empty());
    let missing = finder.missing_kubelet(&web(&[], &[])).unwrap().to_string();
    let sockets = [host.kubelet(), host.second()].map(|root| root.join("pod-resources/kubelet.sock"));
    let [first, second] = sockets.map(|socket| socket.display().to_string());
    assert!(missing.ends_with(&format!("there is none of {first}, {second}")), "{missing}");
    assert_eq!(finder.missing_kubelet(&plain(&[], &[])), None);
}

#[tokio::test]
async fn kubelets_root_is_the_first_that_has_its_socket() {
    let gives = || gives(&[("nvidia.com/pgpu", &["vfio3"])]);
    let find = async |host: &Host| host.finder().pod(&web(&[], &[]), Wish::Unknown, SHORT).await;
    // What another engine has left of its own is not asked, and neither is its record.
    let host = Host::new();
    host.checkpoint("uid-0", "vfio3");
    Host::checkpoint_below(&host.second(), "uid-1", "vfio3");
    Kubelet::new(gives()).serve(&host.second());
    let request = find(&host).await.unwrap();
    assert_eq!((addresses(&request), request.notes), (vec!["0000:41:00.0".to_owned()], vec![]));
    assert_eq!(host.finder().missing_kubelet(&web(&[], &[])), None);
    Host::checkpoint_below(&host.second(), "uid-0", "vfio3");
    assert!(matches!(find(&host).await, Err(Error::OtherPod { .. })));
    // Both are there.
    let host = Host::new();
    Kubelet::new(gives()).serve(&host.kubelet());
    Kubelet::new(Behaviour::default()).serve(&host.second());
    assert_eq!(addresses(&find(&host).await.unwrap()), ["0000:41:00.0"]);
}

#[tokio::test]
async fn a_device_of_another_pod_uid_is_refused() {
    let host = Host::new();
    host.checkpoint("uid-0", "vfio3");
    let error = by_kubelet(&host, gives(&[("nvidia.com/pgpu", &["vfio3"])])).await.unwrap_err();
    assert!(matches!(&error, Error::OtherPod { owner, .. } if owner == "uid-0"), "{error:?}");
    // Two pods of one name, as while one goes and the next comes.
    let host = Host::new();
    let mut twice = Behaviour { no_get: true, ..gives(&[]) };
    twice.pods.push(pod("web", &[]));
    let error = by_kubelet(&host, twice).await.unwrap_err();
    assert!(error.source().unwrap().to_string().contains("two pods"), "{error:?}");
}

#[tokio::test]
async fn annotations_and_devices_of_a_kubernetes_pod_give_nothing() {
    let host = Host::new();
    host.cdi("nvidia.com/pgpu", &[("0", "/dev/vfio/devices/vfio3"), ("1", "/dev/vfio/devices/vfio4")]);
    Kubelet::new(gives(&[("nvidia.com/pgpu", &["vfio3"])])).serve(&host.kubelet());
    let finder = host.finder();
    let named = web(&[("cdi.k8s.io/gpu", "nvidia.com/pgpu=0")], &["/dev/vfio/17"]);
    assert_eq!(addresses(&finder.pod(&named, Wish::Gpus, SHORT).await.unwrap()), ["0000:41:00.0"]);
    for more in [web(&[("cdi.k8s.io/gpu", "nvidia.com/pgpu=1")], &[]), web(&[], &["/dev/vfio/devices/vfio4"])]
    {
        let error = finder.pod(&more, Wish::Unknown, SHORT).await.unwrap_err();
        assert!(
            matches!(&error, Error::NotAllocated { gpu, .. } if gpu.to_string() == "0000:42:00.0"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn two_readings_of_an_id_must_agree() {
    let host = Host::new();
    // The spec counts from 0, the id is a group.
    host.cdi("nvidia.com/pgpu", &[("17", "/dev/vfio/devices/vfio4")]);
    let error = by_kubelet(&host, gives(&[("nvidia.com/pgpu", &["17"])])).await.unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error:?}");
}

#[tokio::test]
async fn outside_of_kubernetes_annotations_and_devices_give() {
    let host = Host::new();
    host.cdi("nvidia.com/pgpu", &[("0", "/dev/vfio/devices/vfio3")]);
    host.cdi("vendor.io/net", &[("0", "/dev/vfio/devices/vfio5")]);
    let annotations = [("cdi.k8s.io/a", "nvidia.com/pgpu=0,vendor.io/net=0"), ("other", "nvidia.com/pgpu=9")];
    let devices = ["/dev/vfio/vfio", "/dev/vfio/18", "/dev/vfio/devices/vfio5", "/dev/fuse"];
    let facts = plain(&annotations, &devices);
    let request = host.finder().pod(&facts, Wish::Gpus, SHORT).await.unwrap();
    assert_eq!(addresses(&request), ["0000:41:00.0", "0000:42:00.0"]);
    let notes: Vec<_> = request.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("vendor.io/net=0") && notes[1].contains("vfio5"), "{notes:?}");
    assert_eq!(host.finder().container(&facts).unwrap(), request.assigned);
}

#[tokio::test]
async fn what_is_not_there_or_not_for_a_vm_is_an_error() {
    let host = Host::new();
    host.cdi("nvidia.com/pgpu", &[("0", "/dev/vfio/devices/vfio9"), ("1", "/dev/vfio/noiommu-1")]);
    host.cdi("nvidia.com/gpu", &[("all", "/dev/nvidia0")]);
    host.cdi("nvidia.com/gds", &[("all", "/dev/nvidia-fs0")]);
    let find = async |annotation| {
        let facts = plain(&[("cdi.k8s.io/a", annotation)], &[]);
        host.finder().pod(&facts, Wish::Unknown, SHORT).await
    };
    assert!(matches!(find("nvidia.com/pgpu=0").await, Err(Error::Absent { .. })));
    assert!(matches!(find("nvidia.com/pgpu=1").await, Err(Error::NoIommu { .. })));
    assert!(matches!(find("nvidia.com/pgpu=2").await, Err(Error::Cdi { .. })));
    assert!(matches!(find("nvidia.com/gpu=all").await, Err(Error::NotPassthrough { .. })));
    assert!(matches!(find("nvidia.com/pgpu").await, Err(Error::Annotation { .. })));
    assert!(find("nvidia.com/gds=all").await.unwrap().assigned.is_empty());
    std::fs::write(host.path("cdi/nvidia.com-pgpu.yaml"), "cdiVersion: [").unwrap();
    let error = find("nvidia.com/pgpu=0").await.unwrap_err();
    assert!(error.source().unwrap().to_string().contains("is no YAML"), "{error:?}");
    let absent = plain(&[], &["/dev/vfio/devices/vfio9"]);
    let error = host.finder().pod(&absent, Wish::Unknown, SHORT).await.unwrap_err();
    assert!(matches!(error, Error::Absent { .. }), "{error:?}");
}

#[tokio::test]
async fn every_function_of_a_group_is_accounted_for() {
    let find = async |host: &Host| {
        host.finder().pod(&plain(&[], &["/dev/vfio/devices/vfio3"]), Wish::Gpus, SHORT).await
    };
    for driver in [None, Some("vfio-pci")] {
        let host = Host::new();
        host.device("0000:40:00.0", "0x8086", "0x0001", "0x060400", 17, Some("pcieport"));
        host.device("0000:41:00.1", "0x10de", "0x22ba", "0x040300", 17, driver);
        let request = find(&host).await.unwrap();
        assert_eq!(request.companions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0000:41:00.1"]);
    }
    let host = Host::new();
    host.device("0000:41:00.1", "0x10de", "0x22ba", "0x040300", 17, Some("snd_hda_intel"));
    let error = find(&host).await.unwrap_err();
    assert!(matches!(&error, Error::Group(group::Error::Driver { driver, .. }) if driver == "snd_hda_intel"));
    let host = Host::new();
    host.device("0000:43:00.0", "0x8086", "0x1572", "0x020000", 17, Some("vfio-pci"));
    let error = find(&host).await.unwrap_err();
    assert!(matches!(&error, Error::Group(group::Error::Foreign { class: 0x02_0000, .. })), "{error:?}");
}
