//! The demonstration's pod that is bound to its image: hashes, policy, initdata, and a host that changes one byte.

use std::time::Duration;

use e2e::{
    BUSYBOX, Containerd, Cri, Flipped, KeyBroker, OrFail, PodContainer, PodRequest, Tenant, converted_layer,
    until,
};

use crate::steps::Steps;

/// What the host changes: a line of the image's `/etc/group`.
const LINE: &[u8] = b"user:x:1000:\n";

/// Binds a pod to an OCI layout, runs it, and changes its layer under it.
pub async fn demo(containerd: &Containerd, steps: &mut Steps) {
    println!(
        "\nA pod that is bound to its image. Its owner computes from an OCI layout what the guest shall mount, without root\n\
         and without a daemon; the guest's agent runs nothing else. This VM is a plain one: with TDX or SEV-SNP the report\n\
         would show the initdata's digest, and the guest would compare it before it believes a word."
    );
    println!("\n$ coffer image verity oci:busybox");
    let broker = KeyBroker::at(8443);
    let tenant = Tenant::bind_with("demo-bound", BUSYBOX, &[("aa.toml", &broker.document())]);
    for root in tenant.layers() {
        println!("  root hash {root}");
    }
    println!("$ coffer policy generate --pod pod.yaml --image app=oci:busybox --allow-exec > policy.rego");
    println!("$ coffer initdata build --file policy.rego --file aa.toml --pod pod.yaml > initdata.toml");
    println!("$ coffer measure initdata initdata.toml --field host-data\n  {}", tenant.host_data());
    steps.done("hashes computed, policy bound");

    let pod = PodRequest::new(Cri::connect().await, "demo-bound")
        .annotation("io.katacontainers.config.hypervisor.cc_init_data", &tenant.annotation());
    let mut pod = pod.start().await;
    let mounts = vec![pod.directory.etc_hosts("127.0.0.1 localhost\n")];
    let container = pod
        .try_run_written("app", BUSYBOX, tenant.image(), &["sleep", "100000"], mounts)
        .await
        .or_fail("container app");
    steps.done("pod runs through CRI, its container from the layer with that root hash");
    println!("  in it: {}", container.exec(&["uname", "-r"]).await.trim());

    keys(&broker, &tenant, &container, steps).await;

    let other = pod.try_run_written("more", BUSYBOX, tenant.image(), &["sh"], vec![]).await;
    let refusal = other.err().or_fail("the refusal of another container").message().to_owned();
    println!("\nThe host asks for another container in the pod:\n  {refusal}");
    steps.done("refused in the guest");

    let mark = containerd.log_mark();
    let (file, at) = converted_layer(tenant.layers()[0], LINE);
    let flipped = Flipped::new(&file, at);
    println!("\nThe host changes byte {at} of {}", file.display());
    println!("$ crictl exec app cat /etc/group");
    let code = container.exec_code(&["cat", "/etc/group"]).await;
    drop(flipped);
    assert_ne!(code, 0, "a changed file was read");
    println!("  exit code {code}");
    let told = until("the shim's word of the layer", Duration::from_secs(10), async || {
        let log = containerd.log_since(mark);
        log.lines().find(|line| line.contains("level=error") && line.contains("block")).map(str::to_owned)
    });
    println!("  the shim's log: {}", told.await);
    steps.done("the container reads an error, and the log says which layer and block");
    pod.remove().await;
    steps.done("pod removed");
}

/// The pod's key from its owner's broker, and what the pod gets from brokers that do not mean it.
async fn keys(broker: &KeyBroker, tenant: &Tenant, container: &PodContainer, steps: &mut Steps) {
    println!(
        "\nThe pod's initdata names its owner's key broker and pins its certificate. The broker here is the tests' stand-in for\n\
         Trustee, whose policy gives the key to this initdata alone. Without confidential hardware the evidence is `sample`."
    );
    let ask = format!(
        "(printf 'GET /cdh/resource/{} HTTP/1.0\\r\\n\\r\\n'; sleep 3) | nc 127.0.0.1 8006",
        KeyBroker::PATH
    );
    let answer =
        async || container.exec(&["sh", "-c", &ask]).await.lines().last().unwrap_or_default().to_owned();

    let another =
        Tenant::bind_with("demo-another", "localhost/another:test", &[("aa.toml", &broker.document())]);
    let theirs = broker.open(&another);
    println!("\nThe broker's policy is another pod's:\n  {}", answer().await);
    assert_eq!(theirs.attestations(), 1);
    drop(theirs);
    steps.done("no key: the policy wants another initdata");

    let stranger = broker.open_stranger(tenant);
    println!("\nSomebody else has taken the broker's place:\n  {}", answer().await);
    drop(stranger);
    steps.done("no key: the certificate is not the pinned one");

    let owners = broker.open(tenant);
    let url = format!("http://127.0.0.1:8006/cdh/resource/{}", KeyBroker::PATH);
    println!("\nThe broker is the owner's:\n$ crictl exec app wget -qO- {url}");
    let key = container.exec(&["wget", "-qO-", &url]).await;
    assert_eq!(key, KeyBroker::KEY);
    println!("  {key}");
    let took = owners.first_key().or_fail("a key").as_millis();
    steps.done(&format!("key released: {took} ms from challenge to key, as the broker saw it"));
}
