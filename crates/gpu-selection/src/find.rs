//! The search.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpu::PciAddress;
use gpu::sysfs::{Function, Inventory, Sysfs};

use crate::cdi::{self, Name, Specs};
use crate::kubelet::{self, Allocation, NoKubelet, What};
use crate::node::{self, Behind, Node, behind, is_vfio_device, number};
use crate::{Assigned, Error, Facts, Note, Pod, Request, Roots, Source, Wish, checkpoint, group};

/// Finds pods' GPUs on one host.
#[derive(Debug, Clone, Default)]
pub struct Finder {
    roots: Roots,
}

impl Finder {
    /// On the host with these roots.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self { roots }
    }

    /// All GPUs of a pod, before its VM is planned. `facts` are the sandbox's; kubelet is given `patience`
    /// altogether.
    ///
    /// # Errors
    /// [`Error`]: fail closed.
    pub async fn pod(&self, facts: &Facts, wish: Wish, patience: Duration) -> Result<Request, Error> {
        let mut search = self.search()?;
        search.facts(facts)?;
        if let Some(pod) = &facts.pod {
            let named = std::mem::take(&mut search.found);
            self.of_kubelet(&mut search, pod, wish, !named.is_empty(), patience).await?;
            let given = |found: &&(PciAddress, Assigned)| !search.found.contains_key(&found.0);
            let named: Vec<_> = named.into_iter().collect();
            if let Some((gpu, Assigned { source: by, .. })) = named.iter().find(given) {
                return Err(Error::NotAllocated {
                    gpu: *gpu,
                    by: by.clone().into(),
                    pod: pod.clone().into(),
                });
            }
        }
        if wish == Wish::Gpus && search.found.is_empty() {
            return Err(Error::None);
        }
        search.finish()
    }

    /// The GPUs that one container's bundle names; they must be among its pod's. Kubelet is not asked, and
    /// groups are not checked again.
    ///
    /// # Errors
    /// [`Error`].
    pub fn container(&self, facts: &Facts) -> Result<Vec<Assigned>, Error> {
        let mut search = self.search()?;
        search.facts(facts)?;
        Ok(search.found.into_values().collect())
    }

    /// Where kubelet's socket is missing though the pod is one of Kubernetes: why a pod may have been started without
    /// the GPUs that its container names.
    #[must_use]
    pub fn missing_kubelet(&self, facts: &Facts) -> Option<NoKubelet> {
        facts.pod.as_ref().and_then(|_| kubelet::root(&self.roots.kubelet).err())
    }

    fn search(&self) -> Result<Search<'_>, Error> {
        Ok(Search {
            roots: &self.roots,
            inventory: Sysfs::new(&self.roots.sysfs).discover()?,
            specs: Specs::read(&self.roots.cdi),
            found: BTreeMap::new(),
            notes: Vec::new(),
        })
    }

    async fn of_kubelet(
        &self,
        search: &mut Search<'_>,
        pod: &Pod,
        wish: Wish,
        named: bool,
        patience: Duration,
    ) -> Result<(), Error> {
        let asked_for = named || wish == Wish::Gpus;
        if !asked_for && search.inventory.functions.is_empty() && search.inventory.unreadable.is_empty() {
            // A node without GPUs: nobody can have any.
            return Ok(());
        }
        let root = match kubelet::root(&self.roots.kubelet) {
            Ok(root) => root,
            Err(missing) if asked_for => return Err(Error::NoSocket { pod: pod.clone().into(), missing }),
            Err(missing) => {
                search.notes.push(Note::NoKubelet(missing));
                return Ok(());
            }
        };
        let socket = kubelet::socket(root);
        let fail = |source: kubelet::Error| Error::Kubelet {
            pod: pod.clone().into(),
            socket: socket.clone(),
            source: source.into(),
        };
        let allocations = kubelet::allocations(&socket, pod, patience).await.map_err(fail)?;
        for Allocation { container, what } in allocations {
            match what {
                What::Plugin { resource, id } => {
                    let by = Source::Plugin { container, resource, id };
                    search.plugin(pod, root, by)?;
                }
                What::Claim(name) => {
                    let by = Source::Claim { container, name: name.clone() };
                    let parsed =
                        name.parse().map_err(|source| Error::Annotation { key: by.to_string(), source })?;
                    search.cdi(&parsed, &by)?;
                }
            }
        }
        Ok(())
    }
}

struct Search<'a> {
    roots: &'a Roots,
    inventory: Inventory,
    specs: Specs,
    found: BTreeMap<PciAddress, Assigned>,
    notes: Vec<Note>,
}

impl Search<'_> {
    /// What annotations and devices name.
    fn facts(&mut self, facts: &Facts) -> Result<(), Error> {
        for (key, value) in &facts.cdi {
            let names = cdi::names(value).map_err(|source| Error::Annotation { key: key.clone(), source })?;
            for name in names {
                self.cdi(&name, &Source::Annotation { key: key.clone(), name: name.clone() })?;
            }
        }
        for path in &facts.devices {
            let by = Source::Device(path.clone());
            match Node::of_path(path) {
                // The host's other devices are not this crate's.
                Node::Other | Node::Container => {}
                _ => {
                    let found = self.behind(path, &by)?;
                    self.add_or_note(found, by);
                }
            }
        }
        Ok(())
    }

    /// One qualified name.
    fn cdi(&mut self, name: &Name, by: &Source) -> Result<(), Error> {
        if !name.is_nvidia() {
            self.notes.push(Note::Ignored(by.clone()));
            return Ok(());
        }
        let nodes = self
            .specs
            .nodes(name)
            .map_err(|source| Error::Cdi { by: by.clone().into(), source: source.into() })?;
        let found = self.behind_all(&nodes, by)?;
        if found.is_empty() && name.is_gpu() {
            return Err(Error::NotPassthrough { by: by.clone().into(), nodes });
        }
        self.add_or_note(found, by.clone());
        Ok(())
    }

    /// One device of a plugin of NVIDIA's. Its id is the name of a VFIO device or the number of an IOMMU group;
    /// its CDI spec names devices the same way, or counts them, depending on the plugin's version
    /// (NVIDIA/sandbox-device-plugin, pkg/device_plugin). Both readings must agree where both exist.
    fn plugin(&mut self, pod: &Pod, kubelet: &Path, by: Source) -> Result<(), Error> {
        let Source::Plugin { resource, id, .. } = &by else { return Ok(()) };
        let Ok(name) = format!("{resource}={id}").parse::<Name>() else {
            self.notes.push(Note::Ignored(by));
            return Ok(());
        };
        if !name.is_nvidia() {
            self.notes.push(Note::Ignored(by));
            return Ok(());
        }
        match checkpoint::read(kubelet) {
            None if !self.notes.contains(&Note::UidUnchecked) => self.notes.push(Note::UidUnchecked),
            None => {}
            Some(owners) => {
                if let Some(owner) = owners.other(resource, id, &pod.uid) {
                    let (pod, owner) = (pod.clone().into(), owner.to_owned());
                    return Err(Error::OtherPod { pod, resource: resource.clone(), id: id.clone(), owner });
                }
            }
        }
        let by_number = self.by_number(id);
        let by_spec = match self.specs.nodes(&name) {
            Ok(nodes) => {
                let found = self.behind_all(&nodes, &by)?;
                if found.is_empty() && by_number.is_empty() && name.is_gpu() {
                    return Err(Error::NotPassthrough { by: by.into(), nodes });
                }
                found
            }
            Err(cdi::Error::Unknown { .. }) if !by_number.is_empty() => Vec::new(),
            Err(source) => return Err(Error::Cdi { by: by.into(), source: source.into() }),
        };
        if !by_spec.is_empty() && !by_number.is_empty() && by_spec != by_number {
            return Err(Error::Ambiguous { by: by.into(), first: by_spec, second: by_number });
        }
        let found = if by_spec.is_empty() { by_number } else { by_spec };
        self.add_or_note(found, by);
        Ok(())
    }

    fn by_number(&self, id: &str) -> Vec<PciAddress> {
        let node = match number(id) {
            Some(group) => Node::Group(group),
            None if is_vfio_device(id) => Node::Device(id.to_owned()),
            None => return Vec::new(),
        };
        match behind(&node, &self.inventory, &self.roots.sysfs) {
            Behind::Ours(functions) => addresses(&functions),
            Behind::Others | Behind::Nothing => Vec::new(),
        }
    }

    fn behind_all(&self, nodes: &[PathBuf], by: &Source) -> Result<Vec<PciAddress>, Error> {
        let mut found = Vec::new();
        for node in nodes {
            found.extend(self.behind(node, by)?);
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn behind(&self, path: &Path, by: &Source) -> Result<Vec<PciAddress>, Error> {
        let node = Node::of_path(path);
        if node == Node::NoIommu {
            return Err(Error::NoIommu { by: by.clone().into(), node: path.to_owned() });
        }
        match node::behind(&node, &self.inventory, &self.roots.sysfs) {
            Behind::Ours(functions) => Ok(addresses(&functions)),
            Behind::Others => Ok(Vec::new()),
            Behind::Nothing => Err(Error::Absent { by: by.clone().into(), node: path.to_owned() }),
        }
    }

    fn add_or_note(&mut self, found: Vec<PciAddress>, by: Source) {
        if found.is_empty() {
            self.notes.push(Note::Ignored(by));
            return;
        }
        for address in found {
            let function = self.inventory.functions.iter().find(|function| function.address == address);
            if let Some(kind) = function.map(|function| function.kind) {
                let assigned = Assigned { address, kind, source: by.clone() };
                self.found.entry(address).or_insert(assigned);
            }
        }
    }

    fn finish(self) -> Result<Request, Error> {
        let ours = |function: &&Function| self.found.contains_key(&function.address);
        let functions: Vec<_> = self.inventory.functions.iter().filter(ours).collect();
        let companions = group::companions(&functions)?;
        Ok(Request { assigned: self.found.into_values().collect(), companions, notes: self.notes })
    }
}

fn addresses(functions: &[&Function]) -> Vec<PciAddress> {
    functions.iter().map(|function| function.address).collect()
}
