//! The user who halted, re-armed or reloaded an agent, as the latch and the audit file name it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A user of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The user's name, if there is one.
    pub name: Option<String>,
    /// The user who became this one with `sudo`.
    pub sudo_uid: Option<u32>,
}

impl User {
    /// The user with this number.
    pub fn of(uid: u32) -> Self {
        let name = uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned());
        Self { uid, name, sudo_uid: None }
    }

    /// The user who runs this process, and who that was before `sudo`.
    pub fn current() -> Self {
        let sudo_uid = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
        Self { sudo_uid, ..Self::of(rustix::process::getuid().as_raw()) }
    }
}

impl fmt::Display for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(out, "{name}")?,
            None => write!(out, "uid {}", self.uid)?,
        }
        match self.sudo_uid {
            Some(uid) => write!(out, " (sudo by uid {uid})"),
            None => Ok(()),
        }
    }
}
