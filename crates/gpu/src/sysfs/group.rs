//! IOMMU groups: what goes to a VM together or not at all.

use std::path::Path;

use super::attribute::{content, hex, link_name};
use super::{Error, address_of};
use crate::PciAddress;

/// A group with all its functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IommuGroup {
    /// Its number, which is also its node's name in `/dev/vfio`.
    pub id: u32,
    /// In the order of their addresses; includes the device that was asked for.
    pub functions: Vec<GroupFunction>,
}

/// One function of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFunction {
    /// Its address.
    pub address: PciAddress,
    /// PCI class, 24 bits.
    pub class: u32,
    /// The driver that has it.
    pub driver: Option<String>,
}

impl GroupFunction {
    /// A PCI bridge: never given to a VM, and the kernel lets it keep its driver.
    #[must_use]
    pub(crate) fn is_bridge(&self) -> bool {
        self.class >> 8 == 0x0604
    }
}

impl IommuGroup {
    /// The group of the device whose folder is `device`.
    pub(super) fn of_device(device: &Path) -> Result<Option<Self>, Error> {
        let link = device.join("iommu_group");
        let Some(name) = link_name(&link)? else { return Ok(None) };
        let id = name.parse().map_err(|_| content(&link, &name, "IOMMU group number"))?;
        let members = link.join("devices");
        let fail = |source| Error::Read { path: members.clone(), source };
        let mut functions = Vec::new();
        for entry in std::fs::read_dir(&members).map_err(fail)? {
            functions.push(member(&entry.map_err(fail)?.path())?);
        }
        functions.sort_by_key(|function| function.address);
        Ok(Some(Self { id, functions }))
    }

    /// The functions, bridges aside, that are not among `claimed`: each must be claimed too, or have no
    /// driver, before the group can go to a VM.
    pub fn others<'a>(&'a self, claimed: &'a [PciAddress]) -> impl Iterator<Item = &'a GroupFunction> {
        self.functions.iter().filter(|f| !f.is_bridge() && !claimed.contains(&f.address))
    }
}

fn member(path: &Path) -> Result<GroupFunction, Error> {
    Ok(GroupFunction {
        address: address_of(path)?,
        class: hex(&path.join("class"))?,
        driver: link_name(&path.join("driver"))?,
    })
}
