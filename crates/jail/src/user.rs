//! Users that no account of the host has: for each process that starts jailed programs, one for each kind of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first user of the range where nothing is configured: above what systemd gives to containers, dynamic users and
/// foreign images (its `UIDS-GIDS.md`: 0x70000000 and up is not given out by it), below 2^31, where some file systems end.
pub const FIRST_USER: u32 = 0x7000_0000;
/// As many as there can be processes (`PID_MAX_LIMIT`, include/linux/threads.h).
const PROCESSES: u32 = 4 << 20;
/// How many users a range has: one for each process and [`Role`].
pub const USERS: u32 = 3 * PROCESSES;
/// Below this, numbers belong to the host's accounts (systemd's `UIDS-GIDS.md`).
const ACCOUNTS: u32 = 1 << 16;

/// A user of a range, never one of the host's accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct UserId(u32);

impl UserId {
    /// The number, of the user and of its group.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<UserId> for u32 {
    fn from(user: UserId) -> Self {
        user.0
    }
}

impl TryFrom<u32> for UserId {
    type Error = &'static str;

    fn try_from(user: u32) -> Result<Self, Self::Error> {
        if user < ACCOUNTS || user == u32::MAX {
            return Err("a jailed program's user must be 65536 or more");
        }
        Ok(Self(user))
    }
}

/// What a jailed program is for. Programs of one sandbox are nothing to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// QEMU.
    Qemu,
    /// The program that stands in for vhost-vsock.
    Vsock,
    /// mkfs.erofs.
    ImageBuilder,
}

/// The users from which each sandbox gets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRange(u32);

impl UserRange {
    /// The range that begins with this user; it has [`USERS`].
    ///
    /// # Errors
    /// It would hold an account's number, or numbers that are no users.
    pub fn from_first(first: u64) -> Result<Self, String> {
        let last = u64::from(u32::MAX - USERS);
        match u32::try_from(first) {
            Ok(first) if first >= ACCOUNTS && u64::from(first) < last => Ok(Self(first)),
            _ => Err(format!(
                "{first} begins no range of {USERS} users: it must be from {ACCOUNTS} to {}",
                last - 1
            )),
        }
    }

    /// The first user.
    #[must_use]
    pub const fn first(self) -> u32 {
        self.0
    }

    /// The user of a program that process `pid`, usually a shim, starts. The program ends with that process, and a process id
    /// is nobody else's meanwhile: so no two have the same, and there is nothing to give back.
    #[must_use]
    pub const fn of_process(self, pid: u32, role: Role) -> UserId {
        let part = match role {
            Role::Qemu => 0,
            Role::Vsock => 1,
            Role::ImageBuilder => 2,
        };
        UserId(self.0 + part * PROCESSES + pid % PROCESSES)
    }
}

impl Default for UserRange {
    fn default() -> Self {
        Self(FIRST_USER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_has_a_user_of_its_own_within_the_range() {
        let range = UserRange::default();
        let roles = [Role::Qemu, Role::Vsock, Role::ImageBuilder];
        let users = [1, 2, PROCESSES - 1].map(|pid| roles.map(|role| range.of_process(pid, role).get()));
        let mut users = users.concat();
        users.sort_unstable();
        users.dedup();
        assert_eq!(users.len(), 9);
        assert!(users[0] >= FIRST_USER && users[8] < FIRST_USER + USERS);
        assert!(users.into_iter().all(|user| UserId::try_from(user).is_ok()));
    }

    #[test]
    fn a_range_holds_no_account_and_no_number_beyond() {
        for wrong in [0, 1000, 65_535, u64::from(u32::MAX - USERS), u64::from(u32::MAX), 1 << 40] {
            let error = UserRange::from_first(wrong).unwrap_err();
            assert!(error.contains("65536") && error.contains(&wrong.to_string()), "{error}");
        }
        assert_eq!(UserRange::from_first(65_536).unwrap().first(), 65_536);
        assert!(UserRange::from_first(u64::from(u32::MAX - USERS) - 1).is_ok());
        for wrong in [0, 65_535, u32::MAX] {
            assert!(UserId::try_from(wrong).is_err());
        }
    }
}
