// SPDX-License-Identifier: Apache-2.0
//! Keeps this workload's identity: reads its files, notices changes, and holds the configuration that connections use.
//!
//! The files are checked once a second (size, inode, time; through the `..data` links of Kubernetes' volumes). A new
//! identity is for new connections; open ones continue. A bad one is logged and not used: the old one stays. One that the
//! controller signs comes by [`Tls::sign`] in the place of files.

use super::configs::{self, Configs, provider};
use super::identity::{FILES, Identity, IdentityFault, Pem, Signed};
use super::metrics::TlsMetrics;
use super::places::{Acquaintances, Places};
use crate::net::addrs::Direction;
use crate::net::throttle::Throttle;
use crate::options::config::IdentitySource;
use crate::plan::tls::TlsSettings;
use crate::plan::tls::trust::TrustDomains;
use arc_swap::ArcSwapOption;
use culvert_mesh::model::spiffe::TrustDomain;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Period between two checks of the files.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Period after which the same complaint is logged again.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Part of an identity's life that is left when a warning begins. Issuers renew after two thirds of it at the latest.
const ENDS_SOON: f64 = 0.1;

/// The identity, and rustls' configuration of it, for every connection.
#[derive(Debug)]
pub(crate) struct Tls {
    source: Option<IdentitySource>,
    identity: ArcSwapOption<Identity>,
    configs: ArcSwapOption<Configs>,
    /// Handshakes in progress, by direction: clients that begin many and end none must not block outbound connections.
    places: [Places; 2],
    /// Addresses of members that came in.
    pub(crate) acquaintances: Acquaintances,
    state: Mutex<KeeperState>,
    complaining: Throttle,
}

#[derive(Debug, Default)]
struct KeeperState {
    settings: TlsSettings,
    /// Stamps of the files that were last read, good or bad.
    read: Option<Stamps>,
    /// Stamps of files that were found bad once: a writer that writes one after the other may not have finished yet.
    suspect: Option<Stamps>,
    /// The identity that was signed last, good or bad: in another trust domain it is checked anew.
    signed: Option<Signed>,
    /// Faults of the files as they are, or of what was signed.
    wrong: Option<String>,
}

/// Stamps of the three files, by which a change is noticed.
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
    /// Reads the identity, if one is configured. Its faults are in `/ready` and in the log.
    ///
    /// # Errors
    /// rustls', if versions and suites of the settings do not fit each other.
    pub(crate) fn start(
        source: Option<IdentitySource>,
        settings: TlsSettings,
        metrics: &TlsMetrics,
    ) -> Result<Self, rustls::Error> {
        configs::check(&settings)?;
        Ok(Self::with(source, settings, metrics))
    }

    /// Reads the identity with the settings of a mesh without documents.
    #[cfg(test)]
    pub(crate) fn new(source: Option<IdentitySource>, metrics: &TlsMetrics) -> Self {
        Self::with(source, TlsSettings::default(), metrics)
    }

    fn with(source: Option<IdentitySource>, settings: TlsSettings, metrics: &TlsMetrics) -> Self {
        let tls = Self {
            source,
            identity: ArcSwapOption::empty(),
            configs: ArcSwapOption::empty(),
            places: Direction::ALL.map(|_| Places::new(super::handshake::MOST)),
            acquaintances: Acquaintances::default(),
            state: Mutex::new(KeeperState { settings, ..KeeperState::default() }),
            complaining: Throttle::new(COMPLAIN_EVERY),
        };
        // Twice: files that are bad are read a second time before they count as bad.
        tls.check_files(metrics);
        tls.check_files(metrics);
        tls
    }

    /// Returns the configuration for new handshakes; `None` without an identity.
    pub(crate) fn configs(&self) -> Option<Arc<Configs>> {
        self.configs.load_full()
    }

    /// Returns the places of handshakes in a direction.
    pub(crate) fn places(&self, direction: Direction) -> &Places {
        &self.places[direction as usize]
    }

    /// Returns the workload's identity.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Returns the source of the identity.
    pub(crate) fn source(&self) -> Option<&IdentitySource> {
        self.source.as_ref()
    }

    /// Returns the trust domains that peers may be of; `None` without an identity.
    pub(crate) fn trusted(&self) -> Option<TrustDomains> {
        self.configs.load().as_ref().map(|configs| configs.trusted.clone())
    }

    /// Sets the documents' TLS settings for new connections. In another trust domain the files are checked anew, on the
    /// calling thread.
    ///
    /// # Errors
    /// rustls', if versions and suites do not fit each other. The old settings stay then.
    pub(crate) fn set(&self, settings: TlsSettings, metrics: &TlsMetrics) -> Result<(), rustls::Error> {
        configs::check(&settings)?;
        let mut state = self.state();
        if state.settings == settings {
            return Ok(());
        }
        let Some(source) = &self.source else {
            state.settings = settings;
            return Ok(());
        };
        if own_domain(source, &state.settings) != own_domain(source, &settings) {
            // Until the files are checked, the old identity and the old trust are in force.
            state.read = None;
            state.settings = settings;
            drop(state);
            // Twice, as at the start.
            self.check_files(metrics);
            self.check_files(metrics);
            self.check_signed(metrics);
            return Ok(());
        }
        if let Some(identity) = self.identity() {
            self.configs.store(Some(Arc::new(configs_of(source, &identity, &settings)?)));
        }
        state.settings = settings;
        Ok(())
    }

    /// Returns the reason why the sidecar is not ready, if it lacks an identity: one that is configured and cannot be used,
    /// or, with `mtls`, any.
    pub(crate) fn missing(&self, mtls: bool) -> Option<String> {
        if self.configs.load().is_some() {
            return None;
        }
        let Some(source) = &self.source else {
            return mtls
                .then(|| "no identity: the mesh's mTLS is on, and --identity is not given".to_owned());
        };
        let wrong = self.state().wrong.clone().unwrap_or_else(|| "it is not read yet".into());
        Some(match &source.folder {
            Some(folder) => format!("no identity (--identity {}): {wrong}", folder.display()),
            None => format!("no identity (signed by the controller, --control-token): {wrong}"),
        })
    }

    /// Returns the fault that an operator should mend, in words.
    pub(crate) fn complaint(&self, mtls: bool) -> Option<String> {
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
            Some(format!(
                "the new identity is not used, the old one stays in use and is valid for another {rest} s: {wrong}"
            ))
        } else if ends - now < lasts.mul_f64(ENDS_SOON) {
            Some(format!("the identity ends in {rest} s and was not renewed"))
        } else {
            None
        }
    }

    /// Checks the files once a second and calls `checked` each time; never returns.
    pub(crate) async fn keep(&self, metrics: &TlsMetrics, checked: impl Fn()) {
        if self.source.is_none() {
            return;
        }
        let mut ticks = tokio::time::interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.check_files(metrics);
            if self.source.as_ref().is_some_and(|source| source.folder.is_none())
                && self.state().wrong.is_some()
            {
                self.check_signed(metrics);
            }
            checked();
            if let Some(complaint) = self.complaint(false).filter(|_| self.complaining.ready()) {
                tracing::error!("{complaint}");
            }
        }
    }

    /// Reads the files if they changed, on the calling thread.
    pub(super) fn check_files(&self, metrics: &TlsMetrics) {
        let Some(source) = &self.source else { return };
        let Some(folder) = &source.folder else { return };
        let stamps = Stamps::of(folder);
        let mut state = self.state();
        let same = state.read.as_ref() == Some(&stamps);
        // Bad files are read again: a certificate becomes valid, or a file becomes readable.
        if same && state.wrong.is_none() {
            return;
        }
        let read = Pem::read(folder);
        if Stamps::of(folder) != stamps {
            // Changed during the read: half of the bytes may be old.
            return;
        }
        let provider = Arc::new(provider());
        let domain = own_domain(source, &state.settings).clone();
        let checked = read.and_then(|pem| Identity::check(&pem, &domain, &provider, now()));
        match self.put_in_force(source, checked, &state.settings, metrics) {
            Ok(()) => state.wrong = None,
            Err(wrong) if same => state.wrong = Some(wrong),
            Err(_) if state.suspect.as_ref() != Some(&stamps) => {
                state.suspect = Some(stamps);
                return;
            }
            Err(wrong) => {
                metrics.identity_reload_failed.inc();
                let used = self.without_foreign(&domain);
                tracing::error!("the identity in {} is bad, {used}: {wrong}", folder.display());
                state.wrong = Some(wrong);
            }
        }
        state.suspect = None;
        state.read = Some(stamps);
    }

    /// Uses an identity that was signed. A bad one leaves the old one in use.
    pub(crate) fn sign(&self, signed: Signed, metrics: &TlsMetrics) {
        self.state().signed = Some(signed);
        self.check_signed(metrics);
    }

    fn check_signed(&self, metrics: &TlsMetrics) {
        let Some(source) = &self.source else { return };
        let mut state = self.state();
        let Some(signed) = &state.signed else { return };
        let domain = own_domain(source, &state.settings).clone();
        let checked = Identity::check_signed(signed, &domain, &Arc::new(provider()), now());
        let wrong = self.put_in_force(source, checked, &state.settings, metrics).err();
        if let Some(wrong) = wrong.as_ref().filter(|wrong| state.wrong.as_ref() != Some(wrong)) {
            metrics.identity_reload_failed.inc();
            let used = self.without_foreign(&domain);
            tracing::error!("the identity that the controller signed is bad, {used}: {wrong}");
        }
        state.wrong = wrong;
    }

    /// Puts a good identity in force; else returns its faults in words.
    fn put_in_force(
        &self,
        source: &IdentitySource,
        checked: Result<Identity, Vec<IdentityFault>>,
        settings: &TlsSettings,
        metrics: &TlsMetrics,
    ) -> Result<(), String> {
        let identity = checked.map_err(|faults| in_words(&faults))?;
        let configs = configs_of(source, &identity, settings).map_err(|error| error.to_string())?;
        metrics.identity_expires.set(seconds(identity.expires()));
        metrics.authorities_expire.set(seconds(identity.authorities_expire()));
        metrics.identity_reloads.inc();
        tracing::info!(id = %identity.ids[0], expires_in = ?identity.expires().saturating_sub(now()), "identity");
        warn_of_another_name(&identity, settings);
        self.configs.store(Some(Arc::new(configs)));
        self.identity.store(Some(Arc::new(identity)));
        Ok(())
    }

    /// Gives an identity of another trust domain up: its authorities would be believed about the new one. Returns in words
    /// what is used.
    fn without_foreign(&self, domain: &TrustDomain) -> &'static str {
        if self.identity().is_some_and(|old| old.ids[0].trust_domain() != domain.as_str()) {
            self.configs.store(None);
            self.identity.store(None);
        }
        if self.configs.load().is_some() { "the old one is used on" } else { "there is none" }
    }

    fn state(&self) -> MutexGuard<'_, KeeperState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the trust domain of the pod's identity.
fn own_domain<'a>(source: &'a IdentitySource, settings: &'a TlsSettings) -> &'a TrustDomain {
    settings.trust.as_ref().map_or(&source.trust_domain, |trust| &trust.domain)
}

fn configs_of(
    source: &IdentitySource,
    identity: &Identity,
    settings: &TlsSettings,
) -> Result<Configs, rustls::Error> {
    let mut configs = Configs::new(identity, own_domain(source, settings), settings)?;
    configs.names_services &= source.names_services;
    Ok(configs)
}

/// Warns of an identity that the MeshIdentity does not give this pod: permissions for that one do not mean it.
fn warn_of_another_name(identity: &Identity, settings: &TlsSettings) {
    let named = settings.trust.as_ref().and_then(|trust| trust.id.as_ref());
    if let Some(named) = named.filter(|named| !identity.ids.contains(named)) {
        tracing::warn!("tls.crt is {}, and the MeshIdentity says {named} for this pod", identity.ids[0]);
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
