//! What the guest says of sealed secrets that a container is about to have. Its agent runs a container with the sealed text
//! where a secret was not opened, so the host asks for each one's line.

use std::sync::Arc;
use std::time::Duration;

use shared_types::sealed::{SealedAnswer, SealedId, SealedWord};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::gate::{Heard, NotReady};

/// Secrets that somebody waits for. A line counts for one of them; one about another secret is dropped.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    next: u64,
    awaited: Vec<Awaited>,
}

#[derive(Debug)]
struct Awaited {
    ticket: u64,
    secret: Expected,
    said: Option<SealedAnswer>,
}

/// A sealed secret that a container is about to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Which one.
    pub id: SealedId,
    /// Whether it must be text: the agent leaves a variable sealed where it is not (kata-agent 4.1.0,
    /// `src/agent/src/confidential_data_hub/mod.rs`).
    pub is_text: bool,
}

impl Awaited {
    /// Why the container does not have it, as far as is known.
    fn refusal(&self) -> Option<&str> {
        match self.said.as_ref()? {
            SealedAnswer::Refused(why) => Some(why),
            SealedAnswer::Bytes if self.secret.is_text => {
                Some("it opens to what is no text, and a variable is text: mount it as a file")
            }
            SealedAnswer::Text | SealedAnswer::Bytes => None,
        }
    }
}

impl Secrets {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Takes a line in.
    pub(crate) fn note(&mut self, word: SealedWord) {
        let waits = |awaited: &&mut Awaited| awaited.said.is_none() && awaited.secret.id == word.id;
        if let Some(awaited) = self.awaited.iter_mut().find(waits) {
            awaited.said = Some(word.answer);
        }
    }

    fn of(&self, ticket: u64) -> impl Iterator<Item = &Awaited> {
        self.awaited.iter().filter(move |awaited| awaited.ticket == ticket)
    }

    /// Whether there is nothing more to wait for: all were opened, or one was not.
    fn decided(&self, ticket: u64) -> bool {
        self.first_refusal(ticket).is_some() || self.of(ticket).all(|awaited| awaited.said.is_some())
    }

    fn first_refusal(&self, ticket: u64) -> Option<(usize, &str)> {
        self.of(ticket).enumerate().find_map(|(index, awaited)| Some((index, awaited.refusal()?)))
    }
}

/// A container's secrets, until this is dropped.
#[derive(Debug)]
pub struct AwaitedSecrets {
    heard: Arc<watch::Sender<Heard>>,
    ticket: u64,
}

impl AwaitedSecrets {
    /// Waits for these, whose lines are still to come.
    pub(crate) fn new(heard: Arc<watch::Sender<Heard>>, expected: &[Expected]) -> Self {
        let mut ticket = 0;
        heard.send_modify(|heard| {
            let secrets = &mut heard.secrets;
            ticket = secrets.next;
            secrets.next += 1;
            secrets.awaited.extend(expected.iter().map(|secret| Awaited {
                ticket,
                secret: *secret,
                said: None,
            }));
        });
        Self { heard, ticket }
    }

    /// Waits until the guest has opened all of them.
    ///
    /// # Errors
    /// The first one's place that stays sealed, or of which nothing was said, and why.
    pub async fn opened(&self, patience: Duration) -> Result<(), (usize, NotReady)> {
        let mut heard = self.heard.subscribe();
        let decided = heard.wait_for(|heard| heard.secrets.decided(self.ticket));
        // The sender is ours, and lives; what was said until now counts in any case.
        let _ = timeout(patience, decided).await;
        let heard = self.heard.borrow();
        if let Some((index, why)) = heard.secrets.first_refusal(self.ticket) {
            return Err((index, NotReady::Refused(why.to_owned())));
        }
        let silent = heard.secrets.of(self.ticket).position(|awaited| awaited.said.is_none());
        silent.map_or(Ok(()), |index| Err((index, NotReady::Silent(patience))))
    }
}

impl Drop for AwaitedSecrets {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.heard.send_modify(|heard| heard.secrets.awaited.retain(|awaited| awaited.ticket != ticket));
    }
}
