//! Messages and services of the guest agent, generated from `proto/`.
//!
//! [`agent_ttrpc::AgentServiceClient`] and [`health_ttrpc::HealthClient`] are the callers' side; the traits
//! [`agent_ttrpc::AgentService`] and [`health_ttrpc::Health`] are what a server implements.

macro_rules! generated {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[allow(missing_docs, missing_debug_implementations, non_snake_case, nonstandard_style, unused)]
        #[allow(clippy::all, clippy::absolute_paths, clippy::or_fun_call, clippy::unwrap_used)]
        #[allow(clippy::cast_possible_truncation)]
        #[rustfmt::skip]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    )*};
}

generated! {
    /// Requests and answers of the agent service.
    agent
    /// The agent service's client and server trait.
    agent_ttrpc
    /// What the agent asks a confidential data hub.
    confidential_data_hub
    /// The hub's client and server trait.
    confidential_data_hub_ttrpc
    /// Volume statistics.
    csi
    /// Requests and answers of the health service.
    health
    /// The health service's client and server trait.
    health_ttrpc
    /// The OCI specification in the agent's terms.
    oci
    /// Network objects and shared enums.
    types
}
