// SPDX-License-Identifier: Apache-2.0
//! The documents behind the rate of an inbound's connections.

use super::{Entry, Voice, inbound_list};
use crate::plan::decisions::Claim;
use crate::plan::listener::rate::RatePlan;
use culvert_mesh::kinds::connections::{RateConf, TcpRate};

pub(super) const FIELD: &str = "rate of connections";
const NO_LIMIT: &str = "no limit";

/// Returns the claims about the rate, the deciding one first; none where no policy says anything of TCP.
pub(super) fn claims(entries: Vec<Entry<'_, RateConf>>) -> Vec<Claim> {
    let voices: Vec<_> = entries.into_iter().filter_map(of_tcp).collect();
    // The two fields are merged apart: a policy may turn a wider one's rate off.
    let is_off = voices.iter().find_map(|voice| voice.conf.disabled) == Some(true);
    let (off, others): (Vec<_>, Vec<_>) = voices.iter().partition(|voice| voice.conf.disabled == Some(true));
    let off = off.into_iter().map(|voice| voice.claim(NO_LIMIT));
    let rates = others.into_iter().filter_map(|voice| {
        let rate = voice.conf.connection_rate.as_ref()?;
        Some(voice.claim(RatePlan { num: rate.num.0, interval: rate.interval.0 }.to_string()))
    });
    let mut claims: Vec<_> = if is_off { off.chain(rates).collect() } else { rates.chain(off).collect() };
    if !claims.is_empty() {
        claims.push(Claim::new(NO_LIMIT, "default"));
    }
    claims
}

fn of_tcp<'d>(Entry { document, index, conf }: Entry<'d, RateConf>) -> Option<Voice<'d, TcpRate>> {
    let path = format!("spec.{}[{index}]", inbound_list(document));
    Some(Voice { document, path, conf: conf.local.tcp.clone()? })
}
