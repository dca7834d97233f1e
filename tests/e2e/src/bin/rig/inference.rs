//! The demonstration's inference server: an encrypted model, a bound pod, the key, an answer, and who gets none.

use e2e::{Artefacts, Given, Gpus, Inference, OrFail, Refused, completion, import_llama};

use crate::steps::Steps;

/// What the model goes on with.
const PROMPT: &str = "The key";

/// Runs the server, asks it, and changes one thing after the other.
pub async fn demo(artefacts: &Artefacts, steps: &mut Steps) {
    println!(
        "\nAn inference server with a GPU, and with a model that its node cannot read. The server is Debian's llama.cpp; the model is\n\
         small and made here of a few sentences. Its owner encrypts it, gives the key to a key broker, and binds the pod to the\n\
         server's image, to the model, and to one GPU. The guest is a release image's; no machine of ours has a security processor,\n\
         so a disk plays the report, and the broker, a stand-in for Trustee, takes `sample` evidence that holds the initdata's\n\
         digest. The GPU is an emulated H100. It computes nothing and signs nothing: the guest's driver and its library (NVML) are\n\
         the tests', which read the GPU's mode from its registers and sign reports of an H100's form by an authority of their own."
    );
    import_llama().await;
    println!(
        "\n$ coffer volume build model/ --name demo-inference-model --key key --resource kbs:///default/key/model --out model.img > volumes.toml"
    );
    let inference = Inference::new("demo-inference", 8447, Gpus::h100_in_real_time(1));
    let tenant = &inference.tenant;
    for line in inference.volume.table.lines() {
        println!("  {line}");
    }
    println!(
        "$ coffer policy generate --pod pod.yaml --image app=oci:llama --volumes volumes.toml > policy.rego"
    );
    println!(
        "$ coffer initdata build --file policy.rego --file aa.toml --file volumes.toml --pod pod.yaml > initdata.toml"
    );
    steps.done("model encrypted, pod bound");

    let vm = inference.vm(artefacts, "demo-inference", tenant, Given::WANTED).await;
    let mut pod = vm.or_fail("the pod");
    steps
        .done("the pod's guest runs, its initdata is what the report shows, its GPU is in confidential mode");
    let mut rows = inference.refused_in(&mut pod).await;
    rows.extend(inference.refused_replays());
    steps.done("five tries of others to get the key are refused (the table below)");

    let kbs = inference.broker.open(tenant);
    inference.serve(&mut pod).await.or_fail("the server");
    let took = kbs.first_key().or_fail("a key").as_millis();
    steps.done(&format!(
        "key released for the evidence of processor and GPU ({took} ms from challenge to key), model opened inside, the server starts"
    ));
    let address = pod.addresses().await.remove(0);
    println!(
        "\n$ wget -q -O - --header 'Content-Type: application/json' --post-data \
         '{{\"prompt\": \"{PROMPT}\", \"max_tokens\": 16, \"temperature\": 0}}' http://{address}:8080/v1/completions"
    );
    let text = completion(&address, PROMPT).await;
    println!("  {PROMPT}{text}");
    assert!(!text.is_empty(), "the model says nothing");
    steps.done("the model answers through the pod's network");
    drop(kbs);
    pod.remove().await;

    rows.extend(inference.refused_at_boot(artefacts).await);
    steps.done("four more guests power off");
    table(&rows);
}

fn table(rows: &[Refused]) {
    println!("\nThe same pod with one thing changed:\n");
    for row in rows {
        row.check();
        let released = if row.released { "yes" } else { "no" };
        println!(
            "  {}\n    refused by    {}\n    with          {}\n    key released  {released}",
            row.changed,
            row.step,
            row.told()
        );
    }
    println!();
}
