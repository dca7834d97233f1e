//! The customer's story: an inference server with an encrypted model, and what refuses the key to everything that is not it.

use e2e::{Artefacts, Inference, OrFail, completion, e2e, import_llama};

#[test]
fn a_bound_server_answers_from_its_encrypted_model_and_nothing_else_gets_the_key() {
    e2e(async |rig| {
        import_llama().await;
        let artefacts = Artefacts::find();
        let inference = Inference::new("inference", 8446);
        let tenant = &inference.tenant;
        let mut pod = inference.vm(&artefacts, "inference", tenant, tenant).await.or_fail("the pod");
        let mut rows = inference.refused_in(&mut pod).await;
        rows.push(inference.refused_replay());

        let kbs = inference.broker.open(tenant);
        inference.serve(&mut pod).await.or_fail("the server");
        let address = pod.addresses().await.remove(0);
        assert_eq!(completion(&address, "The key").await, " comes when the guest has shown what it runs.");
        assert!(kbs.first_key().is_some());
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
