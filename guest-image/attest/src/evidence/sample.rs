//! Evidence of a machine that is no confidential VM. It proves nothing, and no policy that `coffer measure -o trustee` makes takes
//! it; a broker with its verifier `sample` does, for tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Cpu, EvidenceError};
use crate::protocol::Tee;

/// No processor at all.
#[derive(Debug, Clone, Copy)]
pub struct Sample;

impl Cpu for Sample {
    fn tee(&self) -> Tee {
        Tee::Sample
    }

    fn evidence(&self, data: &[u8; 64]) -> Result<Value, EvidenceError> {
        // Trustee's verifier compares the hash alone (`deps/verifier/src/sample/mod.rs`).
        Ok(json!({ "svn": "1", "report_data": STANDARD.encode(&data[..48]) }))
    }
}
