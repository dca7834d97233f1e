//! `tdx-guest`: what makes a VM a TDX trust domain.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use measurement::initdata::MrConfigId;
use serde_json::{Value, json};

use super::arg::Arg;
use super::confidential::TEE_ID;
use crate::config::QuoteAddress;

/// A trust domain.
///
/// Properties are those of QEMU 11's `tdx-guest` (`qapi/qom.json`). MROWNER and MROWNERCONFIG stay zero: nobody but
/// the tenant could fill them, and what the tenant has to say is in MRCONFIGID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxGuest {
    /// MRCONFIGID; absent: zeros.
    pub config_id: Option<MrConfigId>,
    /// Where QEMU has quotes made; absent: the guest can have none.
    pub quotes: Option<QuoteAddress>,
}

impl TdxGuest {
    pub(super) fn object(&self) -> Arg {
        // Without `sept-ve-disable` a host could raise exceptions in the guest by taking its memory away.
        let mut object = json!({ "qom-type": "tdx-guest", "id": TEE_ID, "sept-ve-disable": true });
        if let Some(id) = &self.config_id {
            object["mrconfigid"] = BASE64_STANDARD.encode(id.as_bytes()).into();
        }
        if let Some(address) = &self.quotes {
            object["quote-generation-socket"] = socket(address);
        }
        Arg::json("-object", &object)
    }
}

/// QEMU's `SocketAddress`, whose numbers are strings.
fn socket(address: &QuoteAddress) -> Value {
    match address {
        QuoteAddress::Unix(path) => json!({ "type": "unix", "path": path.as_str() }),
        QuoteAddress::Vsock { cid, port } => {
            json!({ "type": "vsock", "cid": cid.to_string(), "port": port.to_string() })
        }
    }
}
