// SPDX-License-Identifier: Apache-2.0
//! The documents behind active checks: MeshHealthCheck, and below it HealthCheck.

use super::Voice;
use crate::plan::decisions::{Claim, words};
use crate::plan::health::{CheckPlan, HealthPlan};
use culvert_mesh::kinds::connections::{HealthConf, Payload};
use std::time::Duration;

const CHECK: &str = "active check";
const IN_PANIC: &str = "calls in panic";
/// Characters of a payload that are shown; it may have 16 KiB.
const SHOWN: usize = 40;

/// A field, its value in an entry, its value without any, and true if it is shown where no entry has it.
type Row = (&'static str, fn(&HealthConf) -> Option<String>, String, bool);

fn time(time: Duration) -> String {
    words(Some(time))
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

/// Returns bytes as text in quotes.
fn text(Payload(bytes): &Payload) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

fn texts(payloads: &[Payload]) -> String {
    payloads.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn rows(check: &CheckPlan) -> [Row; 13] {
    let default = CheckPlan::default();
    [
        ("check sends", |conf| Some(text(conf.tcp.as_ref()?.send.as_ref()?)), "nothing".into(), false),
        (
            "check expects",
            |conf| Some(texts(conf.tcp.as_ref()?.receive.as_deref()?)),
            "nothing: a connect is enough".into(),
            false,
        ),
        ("check interval", |conf| conf.interval.map(|of| time(of.0)), words(Some(default.interval)), true),
        (
            "check interval after a failure",
            |conf| conf.unhealthy_interval.map(|of| time(of.0)),
            words(Some(check.interval)),
            false,
        ),
        (
            "check interval before the first call",
            |conf| conf.no_traffic_interval.map(|of| time(of.0)),
            words(Some(default.no_traffic_interval)),
            false,
        ),
        ("check timeout", |conf| conf.timeout.map(|of| time(of.0)), words(Some(default.timeout)), true),
        (
            "failed checks until it is down",
            |conf| conf.unhealthy_threshold.map(|number| number.0.to_string()),
            default.unhealthy_threshold.to_string(),
            true,
        ),
        (
            "passed checks until it is up",
            |conf| conf.healthy_threshold.map(|number| number.0.to_string()),
            default.healthy_threshold.to_string(),
            true,
        ),
        (
            "longest wait before the first check",
            |conf| conf.initial_jitter.map(|of| time(of.0)),
            "0ns".into(),
            false,
        ),
        (
            "check interval, by chance more",
            |conf| conf.interval_jitter.map(|of| time(of.0)),
            "0ns".into(),
            false,
        ),
        (
            "check interval, by chance a share more",
            |conf| conf.interval_jitter_percent.map(|share| format!("{} %", share.0)),
            "0 %".into(),
            false,
        ),
        (
            "checks share a connection",
            |conf| conf.reuse_connection.map(yes),
            yes(default.reuse_connection),
            false,
        ),
        ("each failed check is logged", |conf| conf.always_log.map(yes), yes(default.log_failures), false),
    ]
}

/// Returns the claims about a cluster's checks; none where no policy says anything.
pub(super) fn claims(
    voices: &[Voice<'_, HealthConf>],
    health: Option<&HealthPlan>,
) -> Vec<(&'static str, Claim)> {
    let mut claims: Vec<_> = switch(voices).into_iter().map(|claim| (CHECK, claim)).collect();
    if let Some(check) = health.and_then(|health| health.check.as_ref()) {
        for (field, value, default, always) in rows(check) {
            let said: Vec<_> =
                voices.iter().filter_map(|voice| Some(voice.claim(value(&voice.conf)?))).collect();
            if always || !said.is_empty() {
                let default = Claim::new(default, "default");
                claims.extend(said.into_iter().chain([default]).map(|claim| (field, claim)));
            }
        }
    }
    if health.is_some() {
        let way = |fails| if fails { "refused" } else { "to all endpoints" };
        let said = voices
            .iter()
            .filter_map(|voice| Some((IN_PANIC, voice.claim(way(voice.conf.fail_traffic_on_panic?)))));
        let said: Vec<_> = said.collect();
        if !said.is_empty() {
            claims.extend(said);
            claims.push((IN_PANIC, Claim::new(way(false), "default")));
        }
    }
    claims
}

fn disabled(voice: &Voice<'_, HealthConf>) -> Option<bool> {
    voice.conf.tcp.as_ref()?.disabled
}

/// Returns what turns checks on or off. The field `disabled` is merged by itself: one policy turns off another one's check.
fn switch(voices: &[Voice<'_, HealthConf>]) -> Vec<Claim> {
    let is_off = voices.iter().find_map(disabled) == Some(true);
    let with_tcp = || voices.iter().filter(|voice| voice.conf.tcp.is_some());
    let off = with_tcp().filter(|voice| disabled(voice) == Some(true)).map(|voice| voice.claim("none"));
    let on = with_tcp().filter(|voice| disabled(voice) != Some(true)).map(|voice| voice.claim("by TCP"));
    let mut claims: Vec<_> = if is_off { off.chain(on).collect() } else { on.chain(off).collect() };
    // Checks by HTTP and gRPC alone are none here.
    claims.extend((!voices.is_empty()).then(|| Claim::new("none", "default")));
    claims
}
