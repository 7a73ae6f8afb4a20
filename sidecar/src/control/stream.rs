// SPDX-License-Identifier: Apache-2.0
//! Keeps a stream to the controller: connects, asks, takes responses, acknowledges them once they are compiled, and begins
//! again when it breaks. What was told before stays in force meanwhile.

use super::grpc::{Call, CallError};
use super::inventory::Taken;
use super::transport::{self, ConnectError};
use super::{Control, News};
use crate::net::backoff::Backoff;
use crate::net::throttle::Throttle;
use culvert_control::messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use culvert_control::{DELTA, DOCUMENT};
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// First and longest pause before the next attempt. 10,000 sidecars whose controller restarts come back over some seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Life of a stream after which the next failure is the first of new ones.
const LASTING: Duration = Duration::from_secs(10);
/// Interval of reports on the pod's connections.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Period after which a failure is logged again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the connection ended")]
    Ended,
}

/// Keeps a stream open, for ever.
pub(crate) async fn keep(control: Arc<Control>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let complaining = Throttle::new(COMPLAIN_EVERY);
    loop {
        let begun = Instant::now();
        let Err(broken) = follow(&control).await;
        control.metrics.connected.set(0);
        control.metrics.failures.inc();
        if begun.elapsed() > LASTING {
            backoff.reset();
        }
        let words = broken.to_string();
        if complaining.ready() {
            tracing::warn!("no stream from the controller, what it told before stays in force: {words}");
        } else {
            tracing::debug!("no stream from the controller: {words}");
        }
        control.state().words = format!("not connected: {words}");
        tokio::time::sleep(jittered(backoff.next())).await;
    }
}

/// Returns a time between half of the pause and the whole, so that sidecars do not come back all at once.
pub(super) fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    // Without randomness the whole pause is as good.
    let _ = SystemRandom::new().fill(&mut random);
    pause - pause.mul_f64(f64::from(random[0]) / 512.0)
}

/// Follows one stream until it breaks.
async fn follow(control: &Control) -> Result<std::convert::Infallible, Broken> {
    let mut connection = transport::connect(&control.source).await?;
    let mut begun = connection.channel.begin(DELTA, control.source.token.as_deref()).await?;
    let opening = {
        // Whether it looks names up is known once it answers, which is after the first requests.
        let News { asked, given_up } = control.take_news(false);
        let mut state = control.state();
        let inventory = &mut state.inventory;
        let (_, changed) = inventory.follow(&asked, &given_up);
        let opening = inventory.opening(&control.node);
        drop(state);
        if changed {
            control.changed.notify_one();
        }
        opening
    };
    for request in &opening {
        begun.send(request).await?;
    }
    let mut call = begun.answered().await?;
    let takes_names = call.takes_names();
    control.takes_names.store(takes_names, Relaxed);
    let names = control.state().inventory.opening_of_names();
    if let Some(names) = names.filter(|_| takes_names) {
        call.send(&names).await?;
    }
    control.metrics.connected.set(1);
    control.state().words = "connected".to_owned();
    tracing::info!(controller = connection.channel.authority, "a stream from the controller is open");
    control.traffic.begin_again();
    let mut reports = tokio::time::interval_at(Instant::now() + REPORT_EVERY, REPORT_EVERY);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let behind = control.state().inventory.is_behind();
        tokio::select! {
            response = call.next(), if !behind => take(control, &mut call, response?).await?,
            () = control.wake.notified() => {}
            () = control.settled.notified() => {}
            _ = reports.tick() => report(control, &mut call).await?,
            () = connection.ended() => return Err(Broken::Ended),
        }
        for request in due(control, takes_names) {
            if request.error_detail.is_some() {
                control.metrics.refused.inc();
            }
            call.send(&request).await?;
        }
    }
}

/// Tells the controller what connections the pod had. It asks for nothing by that, and gets no answer.
async fn report(control: &Control, call: &mut Call) -> Result<(), CallError> {
    let Some(report) = control.traffic.report() else { return Ok(()) };
    control.metrics.reports.inc();
    // Of a type that both sides know, so that a controller that takes no reports passes it over.
    let request =
        DeltaDiscoveryRequest { type_url: DOCUMENT.to_owned(), report: Some(report), ..Default::default() };
    call.send(&request).await
}

/// Takes a response, and refuses it at once where it is wrong by itself.
async fn take(control: &Control, call: &mut Call, response: DeltaDiscoveryResponse) -> Result<(), CallError> {
    control.metrics.responses.inc();
    let taken = {
        let mut state = control.state();
        let taken = state.inventory.take(response);
        if let Ok(taken) = &taken {
            state.about_pod |= taken.about_pod;
        }
        note_counts(control, &mut state.inventory);
        taken
    };
    match taken {
        Ok(Taken { changed, answered, .. }) => {
            if changed {
                control.changed.notify_one();
            }
            control.answer(answered);
            Ok(())
        }
        Err(refusal) => {
            let (refused, nack) = *refusal;
            tracing::warn!("a response of the controller is refused: {refused}");
            control.metrics.refused.inc();
            call.send(&nack).await
        }
    }
}

fn note_counts(control: &Control, inventory: &mut super::inventory::Inventory) {
    let (about, of_destinations) = inventory.counts();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    control.metrics.documents_pod.set(number(about));
    control.metrics.documents_destinations.set(number(of_destinations));
    control.metrics.strays.inc_by(std::mem::take(&mut inventory.strays));
}

/// Returns the requests to send: questions, resignations, and acknowledgements of what was compiled.
fn due(control: &Control, takes_names: bool) -> Vec<DeltaDiscoveryRequest> {
    let News { asked, given_up } = control.take_news(takes_names);
    let (due, changed, answered) = {
        let mut state = control.state();
        let super::State { inventory, settled, .. } = &mut *state;
        let (request, changed) = inventory.follow(&asked, &given_up);
        // Asked again before it was given up: no answer comes, as none is missing.
        let known = asked.into_iter().filter(|one| inventory.is_answered(one));
        let answered: Vec<_> = known.collect();
        let mut due = inventory.due(settled);
        due.extend(request);
        note_counts(control, inventory);
        (due, changed, answered)
    };
    control.answer(answered);
    let followed = control.addresses.len() + control.names.len();
    control.metrics.destinations.set(i64::try_from(followed).unwrap_or(i64::MAX));
    if changed {
        control.changed.notify_one();
    }
    due
}
