// SPDX-License-Identifier: Apache-2.0
//! State that the controller's tasks share.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, Semaphore, watch};

use super::authority::Kept;
use super::compile::{Account, Callers, Identities};
use super::followers::Followers;
use super::key::Key;
use super::metrics::Metrics;
use super::options::Settings;
use super::peers::{Allowance, Shares};
use super::told::Reports;
use super::traffic::Traffic;
use super::world::{Touched, World};
use crate::kube::Events;

/// Reviews of tokens at a time: a cluster that comes back sends thousands, and the API server has others to answer.
const REVIEWS_AT_ONCE: usize = 32;

/// Reviews that one address waits for at a time: half, as pods behind a node's address may be many.
const REVIEWS_OF_PEER: usize = 16;
/// Streams of a pod: one, and the next one while the first is not known to be gone.
const STREAMS_OF_POD: usize = 2;
/// Certificates of a pod within a time. A sidecar asks for one at its start and at half of each one's life.
const SIGNATURES: usize = 10;
const SIGNATURES_WITHIN: Duration = Duration::from_secs(60);

/// State that the controller's tasks share.
pub(crate) struct Shared {
    /// Settings, as they were at the start.
    pub settings: Settings,
    /// Client of the API server.
    pub client: kube::Client,
    /// The cluster. Watches write it, streams read it.
    world: Mutex<World>,
    /// Streams. They add themselves; watches wake them.
    followers: Mutex<Followers>,
    /// Connections that sidecars report. Streams write it, the picture of the mesh reads it.
    traffic: Mutex<Traffic>,
    /// The authority; `None` until the Secret is read. Upkeep writes it.
    authority: Mutex<Option<Kept>>,
    /// Certificate of the streams' port. Upkeep writes it, each handshake reads it.
    pub served: watch::Sender<Option<Arc<CertifiedKey>>>,
    /// True once every watch has brought its first list.
    pub listed: watch::Sender<bool>,
    /// True while this replica writes what must be written once.
    pub leads: watch::Sender<bool>,
    /// Wakes the leader's writes.
    pub wake: Notify,
    /// Accounts that permissions by tags mean.
    callers: Callers,
    /// Held by the one that makes them.
    making: tokio::sync::Mutex<()>,
    /// Reviews of tokens at a time.
    pub reviews: Semaphore,
    /// Reviews that one address waits for at a time.
    pub reviews_of_peer: Arc<Shares<IpAddr>>,
    /// Streams of one pod at a time.
    pub streams: Arc<Shares<Key>>,
    /// Certificates that one pod asks for.
    pub signatures: Allowance<Key>,
    pub metrics: Metrics,
    /// Events on documents and pods.
    pub reports: Reports,
}

impl Shared {
    pub(crate) fn new(settings: Settings, client: kube::Client, events: &Events) -> Self {
        let metrics = Metrics::default();
        Self {
            settings,
            client,
            world: Mutex::default(),
            followers: Mutex::default(),
            traffic: Mutex::default(),
            authority: Mutex::default(),
            served: watch::Sender::new(None),
            listed: watch::Sender::new(false),
            leads: watch::Sender::new(false),
            wake: Notify::new(),
            callers: Callers::default(),
            making: tokio::sync::Mutex::default(),
            reviews: Semaphore::new(REVIEWS_AT_ONCE),
            reviews_of_peer: Shares::new(REVIEWS_OF_PEER),
            streams: Shares::new(STREAMS_OF_POD),
            signatures: Allowance::new(SIGNATURES, SIGNATURES_WITHIN),
            reports: Reports::new(events, &metrics.events_dropped),
            metrics,
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn followers(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn authority(&self) -> MutexGuard<'_, Option<Kept>> {
        self.authority.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of identities, as documents say them.
    pub(crate) fn identities(&self) -> Identities {
        let authorities = self.authority().as_ref().map(Kept::bundle);
        Identities { trust_domain: self.settings.trust_domain.clone(), authorities }
    }

    /// Accounts of a mesh's members. They are made while nobody waits for the world, by the first of the streams that a change woke.
    pub(crate) async fn accounts(&self, identities: &Identities, mesh: &str) -> Arc<Vec<Account>> {
        // What others make while this one waits is new enough: of a change after that it is told again.
        let since = self.world().callers_version();
        let _making = self.making.lock().await;
        // The world's guard ends with the statement.
        let known = self.callers.known(&self.world(), mesh, since);
        known.unwrap_or_else(|members| self.callers.make(identities, &members))
    }

    /// Changes the world, and wakes the streams that it concerns.
    pub(crate) fn change(&self, change: impl FnOnce(&mut World) -> Touched) {
        let touched = change(&mut self.world());
        // A namespace, a pod's first in one, or a document's status may be the leader's to write.
        self.wake.notify_one();
        if !touched.is_nothing() {
            self.followers().tell(&touched);
        }
    }

    /// Life of members' certificates.
    pub(crate) fn identity_life(&self) -> Duration {
        self.settings.identity_life
    }
}
