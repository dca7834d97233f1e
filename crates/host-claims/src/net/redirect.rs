//! Traffic control: what arrives at the pod's link leaves through the tap, and the other way round.
//!
//! An ingress qdisc with one filter that matches everything, `u32` rather than `matchall` because every
//! kernel that has traffic control has it. Our filters carry a priority of their own, by which they are
//! known again: a release must not touch what somebody else attached to the link.

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::tc::{TcHandle, TcMessage};

use super::Error;
use super::netlink::{Link, is_errno};

/// `tc filter ... pref 51966`.
const PRIORITY: u16 = 0xcafe;
/// `ETH_P_ALL` as it stands in the message: network byte order.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// Redirects between two links, each given by name and index.
pub(super) async fn both_ways(link: &Link, pod: (&str, u32), tap: (&str, u32)) -> Result<(), Error> {
    // The tap's side first: until the pod's side is redirected the pod's own stack still answers.
    redirect(link, tap, pod).await?;
    redirect(link, pod, tap).await
}

async fn redirect(link: &Link, from: (&str, u32), to: (&str, u32)) -> Result<(), Error> {
    let index = signed(link, from)?;
    link.handle.qdisc().add(index).ingress().execute().await.map_err(|e| {
        if is_errno(&e, Errno::EEXIST) {
            link.unsupported(from.0, "has an ingress qdisc already (of another VM, or of a network plugin)")
        } else {
            link.failed(format!("add an ingress qdisc to {:?}", from.0))(e)
        }
    })?;
    let failed = || link.failed(format!("redirect {:?} to {:?}", from.0, to.0));
    let mut filters = link.handle.traffic_filter(index);
    let filter = filters.add().ingress().priority(PRIORITY).protocol(ALL_PROTOCOLS);
    filter.redirect(to.1).map_err(failed())?.execute().await.map_err(failed())
}

fn signed(link: &Link, (name, index): (&str, u32)) -> Result<i32, Error> {
    i32::try_from(index).map_err(|_| link.unsupported(name, format!("has the impossible index {index}")))
}

/// Removes the ingress qdisc from the pod's link if it is ours: it holds our filter, or none.
/// A link that is gone, or has another name by now, is left alone.
pub(super) async fn remove(link: &Link, name: &str, index: u32) -> Result<(), Error> {
    let action = || format!("remove the redirection from {name:?}");
    let index = signed(link, (name, index))?;
    let gone = |e: &rtnetlink::Error| {
        [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL].iter().any(|&errno| is_errno(e, errno))
    };
    let filters = link.handle.traffic_filter(index).get().ingress().execute();
    let filters: Vec<TcMessage> = match filters.try_collect().await {
        Ok(filters) => filters,
        Err(e) if gone(&e) => return Ok(()),
        Err(e) => return Err(link.failed(action())(e)),
    };
    if !filters.iter().all(is_ours) {
        return Ok(());
    }
    let mut request = link.handle.qdisc().del(index);
    request.message_mut().header.parent = TcHandle::INGRESS;
    match request.execute().await {
        Err(e) if !gone(&e) => Err(link.failed(action())(e)),
        _ => Ok(()),
    }
}

/// The upper half of a filter's `tcm_info` is its priority.
fn is_ours(filter: &TcMessage) -> bool {
    filter.header.info >> 16 == u32::from(PRIORITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_filters_are_known_by_their_priority() {
        let mut filter = TcMessage::default();
        filter.header.info = (u32::from(PRIORITY) << 16) | u32::from(ALL_PROTOCOLS);
        assert!(is_ours(&filter));
        filter.header.info = (1 << 16) | u32::from(PRIORITY);
        assert!(!is_ours(&filter));
    }
}
