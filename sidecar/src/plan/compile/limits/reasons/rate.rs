// SPDX-License-Identifier: Apache-2.0
//! The documents behind the rates of an inbound's connections and requests.

use super::http;
use super::{Entry, Voice, inbound_list};
use crate::plan::compile::limits::http::OlderRates;
use crate::plan::decisions::{Claim, Decisions};
use crate::plan::listener::rate::RatePlan;
use culvert_mesh::kinds::connections::{HttpRate, Rate, RateConf, TcpRate};

const CONNECTIONS: &str = "rate of connections";
const REQUESTS: &str = http::RATE;
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
    older: &OlderRates<'_>,
    is_http: bool,
) {
    let of_tcp = claims(&voices(entries, |conf| conf.local.tcp.clone()));
    let of_http = voices(entries, |conf| conf.local.http.clone());
    let claims = claims(&of_http);
    if let Some(one) = older.about {
        // It puts all others out of force, whatever it says.
        let instead = |value: &str, others: Vec<Claim>| {
            let lost = others.into_iter().filter(|claim| claim.value != NO_LIMIT).collect::<Vec<_>>();
            if lost.is_empty() { lost } else { [vec![Claim::of(value, one, "")], lost].concat() }
        };
        decisions.first(subject, CONNECTIONS, || instead(NO_LIMIT, of_tcp));
        if is_http {
            http::explain_rates(decisions, subject, &older.voices);
            decisions.first(subject, &format!("{REQUESTS} of newer policies"), || instead("none", claims));
        }
        return;
    }
    decisions.first(subject, CONNECTIONS, || of_tcp);
    if !is_http {
        return;
    }
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
