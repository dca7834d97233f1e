//! How long a token is good. Who made it is for the broker to check: it is shown to nobody else here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Tokens are not used in their last seconds, in which they could expire on the way.
const MARGIN: u64 = 10;
/// Longest time that one is believed for, in seconds.
const LONGEST: u64 = 24 * 60 * 60;

#[derive(Deserialize)]
struct Claims {
    exp: u64,
    #[serde(default)]
    iat: Option<u64>,
    #[serde(default)]
    nbf: Option<u64>,
}

/// From its own times, since the guest's clock is the host's to set: from issue, or from when it begins, to its end.
pub(super) fn lifetime(token: &str) -> Result<Duration, &'static str> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it is no JWT");
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| "its claims are not base64url")?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| "its claims name no end (exp)")?;
    // Without a beginning it is used once.
    let Some(begin) = claims.iat.or(claims.nbf) else { return Ok(Duration::ZERO) };
    let seconds = claims.exp.saturating_sub(begin).min(LONGEST);
    if seconds == 0 {
        Err("it ends before it begins")
    } else {
        Ok(Duration::from_secs(seconds.saturating_sub(MARGIN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(claims: &str) -> Result<Duration, &'static str> {
        lifetime(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn a_token_is_good_for_the_time_that_it_says_less_a_margin() {
        assert_eq!(of(r#"{"iat":100,"exp":400}"#), Ok(Duration::from_secs(290)));
        assert_eq!(of(r#"{"nbf":100,"exp":105}"#), Ok(Duration::ZERO));
        assert_eq!(of(r#"{"exp":400}"#), Ok(Duration::ZERO));
        assert_eq!(
            of(&format!(r#"{{"iat":0,"exp":{}}}"#, u64::MAX)),
            Ok(Duration::from_secs(LONGEST - MARGIN))
        );
    }

    #[test]
    fn who_signed_it_and_how_is_the_brokers_business() {
        for header in [r#"{"alg":"RS256"}"#, r#"{"alg":"RS384"}"#, r#"{"alg":"ES384"}"#] {
            let claims = URL_SAFE_NO_PAD.encode(r#"{"iat":100,"exp":400}"#);
            let token = format!("{}.{claims}.c2ln", URL_SAFE_NO_PAD.encode(header));
            assert_eq!(lifetime(&token), Ok(Duration::from_secs(290)), "{header}");
        }
    }

    #[test]
    fn what_is_no_token_is_said() {
        for claims in
            ["", "{}", "[]", r#"{"exp":-1}"#, r#"{"iat":400,"exp":400}"#, r#"{"iat":500,"exp":400}"#]
        {
            assert!(of(claims).is_err(), "{claims}");
        }
        for token in ["", ".", "..", "a.b", "a.!.c", "a.e30.c.d"] {
            assert!(lifetime(token).is_err(), "{token}");
        }
    }
}
