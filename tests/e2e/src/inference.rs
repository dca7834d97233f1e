//! An inference server in a pod that is bound to its image and to an encrypted model: what the demonstration shows, and the
//! tests check.
//!
//! Everything but the machine is real: the server is Debian's llama.cpp, the model is made by `tests/model/weights`, the pod is
//! bound by `coffer`, its guest is a release image's. The processor's report is played by a disk, the GPU is an emulated H100, the
//! guest's driver and NVML are the tests' (`tests/fake-gpus`: the mode is read from the GPU's registers, and the reports are signed
//! by a device authority of the tests), and the broker is the stand-in for Trustee of `tests/kbs`. So the processor's evidence is
//! `sample`, and the GPU's an H100's in form.

mod refusals;

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process;

use crate::artefacts::{Artefacts, workspace};
use crate::bound_pod::INITDATA;
use crate::cri::Cri;
use crate::gpu_node::GpuNode;
use crate::gpus::Gpus;
use crate::hypervisor::Hypervisor;
use crate::images::{LLAMA, llama_archive};
use crate::key_broker::KeyBroker;
use crate::kubelet::PodDirectory;
use crate::model_disk::ModelDisk;
use crate::node_config::NodeConfig;
use crate::or_fail::OrFail;
use crate::pod::{Pod, PodContainer, PodRequest};
use crate::tenant::{Binding, Tenant};
use crate::wait::until;

pub use refusals::Refused;

/// Where the server listens in the pod.
const PORT: u16 = 8080;
/// What the container runs. One thread: an emulated processor's others would wait for it.
const COMMAND: [&str; 14] = [
    "/usr/bin/llama-server",
    "--model",
    "/model/demo.gguf",
    "--host",
    "0.0.0.0",
    "--port",
    "8080",
    "--ctx-size",
    "128",
    "--parallel",
    "1",
    "--threads",
    "1",
    "--no-webui",
];

/// A pod's owner with the model: what is on no node but the encrypted volume and the manifest.
#[derive(Debug)]
pub struct Inference {
    /// The encrypted model.
    pub volume: ModelDisk,
    /// The owner's key broker.
    pub broker: KeyBroker,
    /// The bound pod.
    pub tenant: Tenant,
    gpus: Gpus,
}

/// The GPU that a host gives the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// None.
    Nothing,
    /// The pod's, in this mode.
    Gpu(&'static str),
}

impl Given {
    /// What the owner wants: confidential computing on.
    pub const WANTED: Self = Self::Gpu("on");
}

impl Inference {
    /// Makes the model, encrypts it, and binds the pod `name`, which is unique in the test binary, with a broker at `port`. The
    /// node has one GPU, the first of `gpus`.
    pub fn new(name: &str, port: u16, gpus: Gpus) -> Self {
        let weights = weights(name);
        let volume = ModelDisk::new(
            &format!("{name}-model"),
            "/model",
            &[("demo.gguf", &weights)],
            Some(KeyBroker::KEY),
        );
        let broker = KeyBroker::at(port);
        let tenant = Tenant::bind_as(&Binding {
            name,
            image: LLAMA,
            archive: Some(&llama_archive()),
            command: &COMMAND,
            documents: &[("aa.toml", &broker.document())],
            volumes: &[&volume],
            gpus: 1,
            ..Binding::default()
        });
        Self { volume, broker, tenant, gpus }
    }

    /// Starts a VM whose processor reports the owner's initdata, on a host that brings what is `brought`, and a GPU or none.
    ///
    /// # Errors
    /// What containerd answers.
    pub async fn vm(
        &self,
        artefacts: &Artefacts,
        name: &str,
        brought: &Tenant,
        given: Given,
    ) -> Result<Pod, String> {
        let hypervisor = Hypervisor::new(name).reports(&self.tenant.host_data());
        let mut config = NodeConfig::of_rig(artefacts).path("image", &Artefacts::release_image());
        let mut pod = PodRequest::new(Cri::connect().await, name).annotation(INITDATA, &brought.annotation());
        let mut kubelet = None;
        if let Given::Gpu(mode) = given {
            // Of the pod before.
            self.gpus.free(0).await;
            config = config.set("cc_mode", "\"manage\"").set("gpu_mode", &format!("{mode:?}"));
            pod = pod.annotation("cdi.k8s.io/gpu", &Gpus::device(0));
            kubelet = Some(GpuNode::new(name, &format!("uid-{name}"), "0", Duration::ZERO));
        }
        config.path("qemu", &hypervisor.program()).install();
        let started = pod.try_start().await;
        drop(kubelet);
        NodeConfig::of_rig(artefacts).install();
        started.map_err(|status| status.message().to_owned())
    }

    /// Waits until nobody has the GPU, and fails if it is in quarantine.
    pub async fn gpu_is_free(&self) {
        self.gpus.free(0).await;
        assert_eq!(self.gpus.quarantined(0), None, "the GPU is in quarantine");
    }

    /// Starts the server in a pod.
    ///
    /// # Errors
    /// What containerd answers.
    pub async fn serve(&self, pod: &mut Pod) -> Result<PodContainer, String> {
        self.serve_image(pod, LLAMA).await
    }

    /// The same of an image that the node has under the pod's image's name.
    ///
    /// # Errors
    /// What containerd answers.
    pub async fn serve_image(&self, pod: &mut Pod, image: &str) -> Result<PodContainer, String> {
        let file = PodDirectory::file(&self.volume.file().display().to_string(), &self.volume.path);
        let mounts = vec![pod.directory.etc_hosts("127.0.0.1 localhost\n"), file];
        let images = (image, self.tenant.image());
        let started =
            pod.try_run_written_with_device("app", images, &COMMAND, mounts, &Gpus::device(0)).await;
        started.map_err(|status| status.message().to_owned())
    }
}

/// Makes the model.
fn weights(name: &str) -> Vec<u8> {
    let path = format!("/run/e2e/{name}.gguf");
    let program = workspace().join("tests/model/weights");
    let status = Command::new("python3").arg("-B").arg(program).arg(&path).status().or_fail("python3");
    assert!(status.success(), "tests/model/weights failed");
    let weights = fs::read(&path).or_fail("the model");
    fs::remove_file(path).or_fail("the model");
    weights
}

/// What the server answers to a question by OpenAI's interface, asked from the node through the pod's network: how the model goes
/// on with `prompt`.
pub async fn completion(address: &str, prompt: &str) -> String {
    let url = format!("http://{address}:{PORT}/v1/completions");
    let question = json!({ "prompt": prompt, "max_tokens": 16, "temperature": 0 }).to_string();
    let answer = until(format!("an answer of {url}"), Duration::from_secs(60), async || {
        let mut ask = process::Command::new("busybox");
        ask.args([
            "wget",
            "-q",
            "-O",
            "-",
            "--header",
            "Content-Type: application/json",
            "--post-data",
            &question,
            &url,
        ]);
        // A server that still loads its model has no answer.
        let output = ask.output().await.ok()?;
        output.status.success().then_some(output.stdout)
    });
    let answer: Value = serde_json::from_slice(&answer.await).or_fail("an answer in JSON");
    answer["choices"][0]["text"].as_str().or_fail("a completion").to_owned()
}
