// SPDX-License-Identifier: Apache-2.0
//! The documents behind the rates of an inbound's connections and requests.

use super::http;
use super::{Entry, Voice, inbound_list};
use crate::plan::decisions::{Claim, Decisions};
use crate::plan::listener::rate::RatePlan;
use culvert_mesh::kinds::connections::{HttpRate, Rate, RateConf, TcpRate};

const CONNECTIONS: &str = "rate of connections";
const REQUESTS: &str = "rate of requests";
const NO_LIMIT: &str = "no limit";

/// A rate that a policy says, or that it turns off.
trait SaysRate {
    fn disabled(&self) -> Option<bool>;
    fn rate(&self) -> Option<&Rate>;
}

impl SaysRate for TcpRate {
    fn disabled(&self) -> Option<bool> {
        self.disabled
    }

    fn rate(&self) -> Option<&Rate> {
        self.connection_rate.as_ref()
    }
}

impl SaysRate for HttpRate {
    fn disabled(&self) -> Option<bool> {
        self.disabled
    }

    fn rate(&self) -> Option<&Rate> {
        self.request_rate.as_ref()
    }
}

/// Notes the rates of an inbound, and the answer to requests above the rate where they are limited.
pub(super) fn explain(
    decisions: &mut Decisions,
    subject: &str,
    entries: &[Entry<'_, RateConf>],
    is_http: bool,
) {
    let of_tcp = voices(entries, |conf| conf.local.tcp.clone());
    decisions.first(subject, CONNECTIONS, || claims(&of_tcp));
    if !is_http {
        return;
    }
    let of_http = voices(entries, |conf| conf.local.http.clone());
    let claims = claims(&of_http);
    let is_limited = claims.first().is_some_and(|claim| claim.value != NO_LIMIT);
    decisions.first(subject, REQUESTS, || claims);
    if is_limited {
        decisions.first(subject, http::ANSWER, || http::answers(&of_http));
    }
}

/// Returns the claims about a rate, the deciding one first; none where no policy says anything of its protocol.
fn claims<C: SaysRate>(voices: &[Voice<'_, C>]) -> Vec<Claim> {
    // The two fields are merged apart: a policy may turn a wider one's rate off.
    let is_off = voices.iter().find_map(|voice| voice.conf.disabled()) == Some(true);
    let (off, others): (Vec<_>, Vec<_>) =
        voices.iter().partition(|voice| voice.conf.disabled() == Some(true));
    let off = off.into_iter().map(|voice| voice.claim(NO_LIMIT));
    let rates = others.into_iter().filter_map(|voice| {
        let rate = voice.conf.rate()?;
        Some(voice.claim(RatePlan { num: rate.num.0, interval: rate.interval.0 }.to_string()))
    });
    let mut claims: Vec<_> = if is_off { off.chain(rates).collect() } else { rates.chain(off).collect() };
    if !claims.is_empty() {
        claims.push(Claim::new(NO_LIMIT, "default"));
    }
    claims
}

fn voices<'d, C>(entries: &[Entry<'d, RateConf>], of: impl Fn(&RateConf) -> Option<C>) -> Vec<Voice<'d, C>> {
    let voice = |Entry { document, index, conf }: &Entry<'d, RateConf>| {
        let path = format!("spec.{}[{index}]", inbound_list(document));
        Some(Voice { document, path, conf: of(conf)? })
    };
    entries.iter().filter_map(voice).collect()
}
