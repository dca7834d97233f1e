//! The customer's story: an inference server with a GPU and an encrypted model, and what refuses the key to everything that is not
//! it.

use e2e::{Given, Gpus, Inference, OrFail, completion, e2e_with_gpus, import_llama};

#[test]
fn a_bound_server_answers_from_its_encrypted_model_and_nothing_else_gets_the_key() {
    e2e_with_gpus(async |rig| {
        import_llama().await;
        let artefacts = rig.artefacts.clone();
        let inference = Inference::new("inference", 8446, Gpus::h100(1));
        let tenant = &inference.tenant;
        let vm = inference.vm(&artefacts, "inference", tenant, Given::WANTED).await;
        let mut pod = vm.or_fail("the pod");
        let mut rows = inference.refused_in(&mut pod).await;
        rows.extend(inference.refused_replays());

        let kbs = inference.broker.open(tenant);
        inference.serve(&mut pod).await.or_fail("the server");
        let address = pod.addresses().await.remove(0);
        assert_eq!(completion(&address, "The key").await, " comes when the guest has shown what it runs.");
        assert!(kbs.first_key().is_some());
        rig.logged(&["GPU 0000:", "NVIDIA H100 80GB HBM3 (emulated)", "confidential computing on"]).await;
        rig.logged(&["the GPUs are attested, and take work"]).await;
        drop(kbs);
        pod.remove().await;
        rows.extend(inference.refused_at_boot(&artefacts).await);
        for row in &rows {
            row.check();
            println!("{}: {}: {}", row.changed, row.step, row.told());
        }
        rig.forget_log();
    });
}
