// SPDX-License-Identifier: Apache-2.0
//! Keeps this workload's identity: reads its files, notices when they change, and holds what connections use.
//!
//! The files are looked at once a second (size, inode, time; through the `..data` links of Kubernetes' volumes). A new
//! identity is for new connections; what is open goes on. One that is bad is told and not used: the old one stays.

use super::configs::{Configs, provider};
use super::identity::{FILES, Identity, IdentityFault, Pem};
use super::metrics::TlsMetrics;
use crate::net::addrs::Direction;
use crate::net::limit::Limit;
use crate::net::throttle::Throttle;
use crate::options::config::IdentitySource;
use crate::plan::tls::TlsSettings;
use arc_swap::ArcSwapOption;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the same complaint is logged again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// An identity that ends so soon is complained of: what renews it does so after two thirds of its life at the latest.
const ENDS_SOON: f64 = 0.1;

/// All that TLS needs, for every connection.
#[derive(Debug)]
pub struct Tls {
    source: Option<IdentitySource>,
    identity: ArcSwapOption<Identity>,
    configs: ArcSwapOption<Configs>,
    /// Handshakes under way, by direction: strangers who begin many and end none must not take the pod's way out.
    under_way: [Arc<Limit>; 2],
    state: Mutex<State>,
    complaining: Throttle,
}

#[derive(Debug, Default)]
struct State {
    settings: TlsSettings,
    /// Of what was last read, whatever came of it.
    read: Option<Stamps>,
    /// Seen once and found bad: whoever writes one file after the other may not be done yet.
    suspect: Option<Stamps>,
    /// What is wrong with the files as they are.
    wrong: Option<String>,
}

/// What tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamps([Option<Stamp>; FILES.len()]);

/// Device, inode, size, and time to the nanosecond.
type Stamp = (u64, u64, u64, i64, i64);

impl Stamps {
    fn of(folder: &Path) -> Self {
        Self(FILES.map(|name| {
            let file = std::fs::metadata(folder.join(name)).ok()?;
            Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
        }))
    }
}

impl Tls {
    /// Reads the identity, if there is to be one. What is wrong with it, `/ready` and the log say.
    pub(crate) fn new(source: Option<IdentitySource>, metrics: &TlsMetrics) -> Self {
        let tls = Self {
            source,
            identity: ArcSwapOption::empty(),
            configs: ArcSwapOption::empty(),
            under_way: Direction::ALL.map(|_| Limit::new(super::handshake::MOST)),
            state: Mutex::default(),
            complaining: Throttle::new(COMPLAIN_EVERY),
        };
        // Twice: what is bad at first sight is believed at the second.
        tls.look(metrics);
        tls.look(metrics);
        tls
    }

    /// What handshakes use now; `None` without an identity.
    pub fn configs(&self) -> Option<Arc<Configs>> {
        self.configs.load_full()
    }

    /// Handshakes under way in a direction.
    pub fn under_way(&self, direction: Direction) -> &Arc<Limit> {
        &self.under_way[direction as usize]
    }

    /// Who this workload is.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Where it is from.
    pub fn source(&self) -> Option<&IdentitySource> {
        self.source.as_ref()
    }

    /// Whether the path of an identity is the service's name.
    pub fn names_services(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.names_services)
    }

    /// Takes what documents say of TLS, for connections from here on.
    ///
    /// # Errors
    /// What rustls says where versions and suites do not fit each other; the old settings stay then.
    pub fn set(&self, settings: TlsSettings) -> Result<(), rustls::Error> {
        let mut state = self.state();
        if state.settings == settings {
            return Ok(());
        }
        if let (Some(source), Some(identity)) = (&self.source, self.identity()) {
            self.configs.store(Some(Arc::new(Configs::new(&identity, &source.trust_domain, &settings)?)));
        }
        state.settings = settings;
        Ok(())
    }

    /// Why the sidecar is not ready, if it is for want of an identity: one that is configured and not there, or, with
    /// `mtls`, none at all.
    pub fn missing(&self, mtls: bool) -> Option<String> {
        if self.configs.load().is_some() {
            return None;
        }
        let Some(source) = &self.source else {
            return mtls
                .then(|| "no identity: the mesh's mTLS is on, and --identity is not given".to_owned());
        };
        let wrong = self.state().wrong.clone().unwrap_or_else(|| "it is not read yet".into());
        Some(format!("no identity (--identity {}): {wrong}", source.folder.display()))
    }

    /// What an operator should look after, in words.
    pub fn complaint(&self, mtls: bool) -> Option<String> {
        if let Some(missing) = self.missing(mtls) {
            return Some(missing);
        }
        let identity = self.identity()?;
        let now = now();
        let ends = identity.expires();
        let lasts = ends.saturating_sub(identity.chain[0].facts.validity.from);
        let wrong = self.state().wrong.clone();
        let rest = ends.saturating_sub(now).as_secs();
        if ends < now {
            let ago = (now - ends).as_secs();
            Some(format!("the identity expired {ago} s ago, so peers refuse it{}", because(wrong)))
        } else if let Some(wrong) = wrong {
            Some(format!("the new identity is not used, the old one is for another {rest} s: {wrong}"))
        } else if ends - now < lasts.mul_f64(ENDS_SOON) {
            Some(format!("the identity ends in {rest} s and was not renewed"))
        } else {
            None
        }
    }

    /// Looks once a second, for ever, and calls `looked` each time.
    pub(crate) async fn keep(&self, metrics: &TlsMetrics, looked: impl Fn()) {
        if self.source.is_none() {
            return;
        }
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(metrics);
            looked();
            if let Some(complaint) = self.complaint(false).filter(|_| self.complaining.ready()) {
                tracing::error!("{complaint}");
            }
        }
    }

    /// Reads the files where they changed.
    pub(super) fn look(&self, metrics: &TlsMetrics) {
        let Some(source) = &self.source else { return };
        let stamps = Stamps::of(&source.folder);
        let mut state = self.state();
        let same = state.read.as_ref() == Some(&stamps);
        // What is bad is looked at again: its time may come, or somebody lets us read it.
        if same && state.wrong.is_none() {
            return;
        }
        let read = Pem::read(&source.folder);
        if Stamps::of(&source.folder) != stamps {
            // Changed in between: half of it may be old.
            return;
        }
        let provider = Arc::new(provider());
        let checked = read.and_then(|pem| Identity::check(&pem, &source.trust_domain, &provider, now()));
        let used = checked.map_err(|faults| in_words(&faults)).and_then(|identity| {
            let configs = Configs::new(&identity, &source.trust_domain, &state.settings);
            configs.map(|configs| (identity, configs)).map_err(|error| error.to_string())
        });
        match used {
            Ok((identity, configs)) => {
                metrics.identity_expires.set(seconds(identity.expires()));
                metrics.authorities_expire.set(seconds(identity.authorities_expire()));
                metrics.identity_reloads.inc();
                tracing::info!(id = %identity.ids[0], expires_in = ?identity.expires().saturating_sub(now()), "identity");
                self.configs.store(Some(Arc::new(configs)));
                self.identity.store(Some(Arc::new(identity)));
                state.wrong = None;
            }
            Err(wrong) if same => state.wrong = Some(wrong),
            Err(_) if state.suspect.as_ref() != Some(&stamps) => {
                state.suspect = Some(stamps);
                return;
            }
            Err(wrong) => {
                metrics.identity_reload_failed.inc();
                let used =
                    if self.configs.load().is_some() { "the old one is used on" } else { "there is none" };
                tracing::error!("the identity in {} is bad, {used}: {wrong}", source.folder.display());
                state.wrong = Some(wrong);
            }
        }
        state.suspect = None;
        state.read = Some(stamps);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn because(wrong: Option<String>) -> String {
    wrong.map_or_else(String::new, |wrong| format!("; the new one is not used: {wrong}"))
}

fn in_words(faults: &[IdentityFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
