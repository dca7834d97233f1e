//! The hub that asks the key broker, and the one that has none to ask. Each says a line for each secret, by which the host knows
//! whether a container has it: the agent runs a container with the sealed text where nobody opens it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared_types::one_line;
use shared_types::sealed::{SealedAnswer, SealedId, SealedWord};

use crate::hub::Hub;
use crate::resource::ResourcePath;
use crate::sealed::{self, Rules};
use crate::service::Service;

/// How long one may take; the agent waits 50 s (kata-agent 4.1.0, `agent.cdh_api_timeout`).
const LIMIT: Duration = Duration::from_secs(40);

/// Says a line on the guest's console.
pub type Say = fn(&str);

/// Asks the key broker.
pub struct Keys {
    service: Arc<Service>,
    rules: Rules,
    say: Say,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Keys {
    /// Opens by this service's keys, as the pod's owner says.
    pub const fn new(service: Arc<Service>, rules: Rules, say: Say) -> Self {
        Self { service, rules, say }
    }
}

impl Hub for Keys {
    fn unseal(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + LIMIT;
        let client = self.service.client();
        let opened = sealed::open(secret, &self.rules, |path| client.resource_until(path, deadline));
        let opened = opened.map_err(|error| one_line(&error));
        told(secret, opened, self.say)
    }

    fn resource(&self, uri: &str) -> Result<Vec<u8>, String> {
        let path = ResourcePath::from_uri(uri, &self.rules.authority).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + LIMIT;
        self.service.client().resource_until(&path, deadline).map_err(|error| one_line(&error))
    }
}

/// Asks nobody, for this reason.
#[derive(Debug)]
pub struct Nobody {
    /// Why.
    pub reason: String,
    /// Where that is said.
    pub say: Say,
}

impl Hub for Nobody {
    fn unseal(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
        told(secret, Err(self.reason.clone()), self.say)
    }

    fn resource(&self, _: &str) -> Result<Vec<u8>, String> {
        Err(self.reason.clone())
    }
}

fn told(secret: &[u8], opened: Result<Vec<u8>, String>, say: Say) -> Result<Vec<u8>, String> {
    let answer = match &opened {
        Ok(plain) if str::from_utf8(plain).is_ok() => SealedAnswer::Text,
        Ok(_) => SealedAnswer::Bytes,
        Err(why) => SealedAnswer::Refused(why.clone()),
    };
    say(&SealedWord { id: SealedId::of(secret), answer }.to_string());
    opened
}
