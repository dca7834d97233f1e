//! As whom a container's processes run: what the manifest says, and what the image's files say where it leaves it open.
//!
//! kubelet hands on a number, from the manifest or from the image's `USER`, or a name (`kuberuntime`,
//! `getImageUser`); containerd and CRI-O look the rest up in the image's `/etc/passwd` and `/etc/group` (containerd,
//! `pkg/oci/spec_opts.go`: WithUser, WithAdditionalGIDs).

use std::collections::BTreeSet;

use pod_manifest::spec::{Container, PodSecurity, Spec};

use crate::{Image, PolicyError};

/// User and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    /// The first group: the one that kubelet comes to, and that of another client of the engine, which may differ.
    pub(crate) gids: BTreeSet<u32>,
    /// The groups beside it.
    pub(crate) groups: BTreeSet<u32>,
}

pub(crate) fn identity(container: &Container, spec: &Spec, image: &Image) -> Result<Identity, PolicyError> {
    let (own, pods) = (&container.security_context, &spec.security_context);
    let unknown =
        |name: &str| PolicyError::UserName { container: container.name.clone(), user: name.to_owned() };
    let written = image.config.user.as_str();
    let (user, group) = written.split_once(':').map_or((written, None), |(user, group)| (user, Some(group)));
    let number = own.run_as_user.or(pods.run_as_user);
    let user = number
        .map_or_else(|| if user.is_empty() { "0".to_owned() } else { user.to_owned() }, |n| n.to_string());

    let entry = Passwd::of(image).find(&user);
    let uid = match (user.parse(), &entry) {
        (Ok(uid), _) => uid,
        (Err(_), Some(entry)) => entry.uid,
        (Err(_), None) => return Err(unknown(&user)),
    };
    let must_not = own.run_as_non_root.or(pods.run_as_non_root) == Some(true);
    // kubelet looks at the image's word, and not who that is.
    if must_not && user.parse::<u32>().is_err() {
        return Err(PolicyError::NamedUser { container: container.name.clone(), user });
    }
    if uid == 0 && must_not {
        return Err(PolicyError::Root(container.name.clone()));
    }
    let mut gids = BTreeSet::new();
    match own.run_as_group.or(pods.run_as_group) {
        Some(gid) => {
            gids.insert(gid);
        }
        None => {
            gids.insert(entry.as_ref().map_or(0, |entry| entry.gid));
            if let (None, Some(group)) = (number, group) {
                let gid = group.parse().ok().or_else(|| group_of(image, group));
                gids.insert(gid.ok_or_else(|| unknown(written))?);
            }
        }
    }
    Ok(Identity {
        uid,
        gids,
        groups: groups(image, pods, entry.as_ref().map(|entry| entry.name.as_str()), &user),
    })
}

/// The manifest's, and those of the image whose list has the user's name.
fn groups(image: &Image, pods: &PodSecurity, name: Option<&str>, user: &str) -> BTreeSet<u32> {
    let mut groups: BTreeSet<u32> = pods.supplemental_groups.iter().copied().chain(pods.fs_group).collect();
    let is_strict = pods.supplemental_groups_policy.as_deref() == Some("Strict");
    let name = name.or_else(|| user.parse::<u32>().is_err().then_some(user));
    if let (false, Some(name)) = (is_strict, name) {
        let has = |members: &str| members.split(',').any(|member| member == name);
        groups.extend(lines(image.group.as_deref()).filter_map(|fields| match fields[..] {
            [group, _, gid, members, ..] if group != name && has(members) => gid.parse::<u32>().ok(),
            _ => None,
        }));
    }
    groups
}

fn group_of(image: &Image, name: &str) -> Option<u32> {
    lines(image.group.as_deref()).find_map(|fields| match fields[..] {
        [group, _, gid, ..] if group == name => gid.parse().ok(),
        _ => None,
    })
}

/// One line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
}

struct Passwd<'a>(Option<&'a str>);

impl<'a> Passwd<'a> {
    fn of(image: &'a Image) -> Self {
        Self(image.passwd.as_deref())
    }

    /// The first line with this name or number.
    fn find(&self, user: &str) -> Option<Entry> {
        let number = user.parse::<u32>().ok();
        lines(self.0).find_map(|fields| {
            let [name, _, uid, gid, ..] = fields[..] else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let is_it = number.map_or(name == user, |number| uid == number);
            is_it.then(|| Entry { name: name.to_owned(), uid, gid })
        })
    }
}

fn lines(file: Option<&str>) -> impl Iterator<Item = Vec<&str>> {
    file.unwrap_or_default().lines().map(|line| line.trim().split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageConfig;
    use pod_manifest::spec::Security;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/app:/bin/sh\n\nodd\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:app\nmedia:x:44:app\nvideo:x:45:other\n";

    fn image(user: &str) -> Image {
        let config = ImageConfig { user: user.into(), ..ImageConfig::default() };
        Image { config, passwd: Some(PASSWD.into()), group: Some(GROUP.into()), ..Image::default() }
    }

    fn of(own: Security, pods: PodSecurity, image: &Image) -> Result<(u32, Vec<u32>, Vec<u32>), PolicyError> {
        let container = Container { security_context: own, ..Container::default() };
        let found = identity(&container, &Spec { security_context: pods, ..Spec::default() }, image)?;
        Ok((found.uid, found.gids.into_iter().collect(), found.groups.into_iter().collect()))
    }

    fn user(user: u32) -> Security {
        Security { run_as_user: Some(user), ..Security::default() }
    }

    fn pods(user: u32) -> PodSecurity {
        PodSecurity { run_as_user: Some(user), ..PodSecurity::default() }
    }

    #[test]
    fn the_container_decides_then_the_pod_then_the_image() {
        let (none, no_pods) = (Security::default, PodSecurity::default);
        assert_eq!(of(user(1), pods(2), &image("3:4")).unwrap(), (1, vec![0], vec![]));
        assert_eq!(of(none(), pods(1000), &image("3:4")).unwrap(), (1000, vec![1001], vec![10, 44]));
        assert_eq!(of(none(), no_pods(), &image("3:4")).unwrap(), (3, vec![0, 4], vec![]));
        assert_eq!(of(none(), no_pods(), &image("app")).unwrap(), (1000, vec![1001], vec![10, 44]));
        assert_eq!(of(none(), no_pods(), &image("app:media")).unwrap(), (1000, vec![44, 1001], vec![10, 44]));
        assert_eq!(of(none(), no_pods(), &image("")).unwrap(), (0, vec![0], vec![10]));
        assert_eq!(of(none(), no_pods(), &Image::default()).unwrap(), (0, vec![0], vec![]));
        let own = Security { run_as_group: Some(7), ..user(1000) };
        assert_eq!(of(own, no_pods(), &image("3:4")).unwrap(), (1000, vec![7], vec![10, 44]));
    }

    #[test]
    fn the_pods_groups_come_to_the_images_unless_it_says_otherwise() {
        let mut security = PodSecurity { fs_group: Some(2000), supplemental_groups: vec![5], ..pods(1000) };
        assert_eq!(of(Security::default(), security.clone(), &image("")).unwrap().2, [5, 10, 44, 2000]);
        security.supplemental_groups_policy = Some("Strict".into());
        assert_eq!(of(Security::default(), security, &image("")).unwrap().2, [5, 2000]);
    }

    #[test]
    fn a_user_that_nobody_knows_and_root_where_it_must_not_be_are_named() {
        let none = Security::default;
        for name in ["nobody", "app:nogroup"] {
            let error = of(none(), PodSecurity::default(), &image(name)).unwrap_err();
            assert!(matches!(error, PolicyError::UserName { user, .. } if user == name), "{name}");
        }
        let strict = || PodSecurity { run_as_non_root: Some(true), ..PodSecurity::default() };
        assert!(matches!(of(none(), strict(), &image("0:0")), Err(PolicyError::Root(_))));
        assert!(matches!(of(none(), strict(), &image("")), Err(PolicyError::Root(_))));
        assert!(
            matches!(of(none(), strict(), &image("app")), Err(PolicyError::NamedUser { user, .. }) if user == "app")
        );
        assert_eq!(of(none(), strict(), &image("1000")).unwrap().0, 1000);
    }
}
