// SPDX-License-Identifier: Apache-2.0
//! The pod's identity by the controller: a key that is made here and never leaves this process, a request for a certificate
//! that the token vouches for, and another one when half of its life is over.

use super::Control;
use super::grpc::CallError;
use super::stream::jittered;
use super::transport::{self, ConnectError};
use crate::net::backoff::Backoff;
use crate::net::throttle::Throttle;
use crate::tls::Signed;
use culvert_control::SIGN;
use culvert_control::messages::{SignRequest, SignResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// First and longest pause before the next attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Shortest time to the next request, even if the certificate's life is shorter.
const SOONEST: Duration = Duration::from_secs(1);
/// Period after which a failure is logged again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("cannot make a key or a request: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the answer holds no certificate, or no authority")]
    Empty,
}

/// Keeps an identity signed, and hands each on, for ever.
pub(crate) async fn keep_signed(control: Arc<Control>, hand_on: impl Fn(Signed)) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let complaining = Throttle::new(COMPLAIN_EVERY);
    loop {
        match signed(&control).await {
            Ok((signed, life)) => {
                control.metrics.signed.inc();
                backoff.reset();
                hand_on(signed);
                tokio::time::sleep(renewal(life)).await;
            }
            Err(error) => {
                control.metrics.sign_failed.inc();
                if complaining.ready() {
                    tracing::warn!("the controller signs no identity, an earlier one stays in use: {error}");
                }
                tokio::time::sleep(jittered(backoff.next())).await;
            }
        }
    }
}

/// Returns the time until the next request: just below half of the life, so that pods that began together do not all ask at
/// once.
fn renewal(life: Duration) -> Duration {
    (life * 2 / 5 + jittered(life / 10)).max(SOONEST)
}

/// Asks for a certificate, and returns it with what is left of its life.
async fn signed(control: &Control) -> Result<(Signed, Duration), SignError> {
    // P-256, as the authority's own.
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // The controller takes the key alone: who this is, the token says.
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.der().to_vec();
    let mut connection = transport::connect(&control.source).await?;
    let token = control.source.token.as_deref();
    let answer: SignResponse = connection.channel.unary(SIGN, token, &SignRequest { csr }).await?;
    let SignResponse { chain, roots, not_after } = answer;
    if chain.is_empty() || roots.is_empty() {
        return Err(SignError::Empty);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let life = Duration::from_secs(u64::try_from(not_after).unwrap_or_default()).saturating_sub(now);
    let certificates = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((Signed { chain: certificates(chain), key, authorities: certificates(roots) }, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_comes_just_before_half_of_the_life() {
        let day = Duration::from_secs(86_400);
        for _ in 0..100 {
            let next = renewal(day);
            assert!((day * 9 / 20..=day / 2).contains(&next), "{next:?}");
        }
        assert_eq!(renewal(Duration::ZERO), SOONEST);
    }
}
