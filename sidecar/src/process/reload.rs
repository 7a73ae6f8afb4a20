// SPDX-License-Identifier: Apache-2.0
//! Documents that change while the sidecar runs: looked at each second, loaded, checked, and put in force as a whole or not
//! at all. Connections that are open keep what they began with.

use crate::connection::proxy::Proxy;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::process::listeners::{self, Doors};
use crate::resources::files::Fingerprint;
use crate::resources::{self, ResourceError};
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at. A watch would use up inotify instances, of which a uid has 128 on the whole node.
const EVERY: Duration = Duration::from_secs(1);

/// Between two looks that have to be the same before files are read: who truncates and writes is done by then.
const SETTLED: Duration = Duration::from_millis(200);
/// How many looks are waited for that; then what is there counts, or a storm of changes would never be seen.
const LOOKS: usize = 5;

/// Loads the documents, with the fingerprint of what was loaded.
///
/// # Errors
/// Everything that is wrong.
pub fn load(config: &Config) -> Result<(Fingerprint, Plan), Vec<ResourceError>> {
    let seen = Fingerprint::of(&config.resources);
    Ok((seen, resources::plan(config, &config.resources)?))
}

/// Says in the log what an operator may want to know.
pub fn warn(plan: &Plan) {
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
}

/// Looks, and loads what changed, for ever.
pub(crate) async fn keep(proxy: Arc<Proxy>, doors: Arc<Doors>, mut in_force: Fingerprint) {
    // What was last loaded, whether it could be used or not: the same again says nothing new.
    let mut last = in_force.clone();
    let look = || blocking(&proxy, |proxy| Fingerprint::of(&proxy.config.resources));
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(seen) = look().await.filter(|seen| *seen != last) else { continue };
        let Some((seen, settled)) = settle(seen, look).await else { continue };
        if seen == in_force {
            proxy.documents.as_before();
            last = seen;
            continue;
        }
        let Some(loaded) = blocking(&proxy, |proxy| {
            let loaded = load(&proxy.config);
            (loaded, Fingerprint::of(&proxy.config.resources))
        })
        .await
        else {
            continue;
        };
        // Somebody is writing this moment: half a file is no news.
        if settled && loaded.1 != seen {
            continue;
        }
        last = seen;
        let applied = match loaded.0 {
            Ok((_, plan)) => apply(&proxy, &doors, plan),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        };
        match applied {
            Ok(()) => {
                in_force = last.clone();
                proxy.documents.loaded(in_force.files());
                proxy.metrics.config_reloaded.inc();
            }
            Err(errors) => {
                proxy.metrics.config_reload_failed.inc();
                for error in &errors {
                    tracing::error!(
                        "the changed documents cannot be used, the old configuration stays: {error}"
                    );
                }
                proxy.documents.failed(&errors);
            }
        }
    }
}

/// Looks again until nothing changes any more, and whether that was so.
async fn settle<L: Future<Output = Option<Fingerprint>>>(
    mut seen: Fingerprint,
    mut look: impl FnMut() -> L,
) -> Option<(Fingerprint, bool)> {
    for _ in 0..LOOKS {
        tokio::time::sleep(SETTLED).await;
        let before = std::mem::replace(&mut seen, look().await?);
        if before == seen {
            return Some((seen, true));
        }
    }
    Some((seen, false))
}

/// Not on the main thread, which answers kubelet's probes.
async fn blocking<T: Send + 'static>(
    proxy: &Arc<Proxy>,
    work: impl FnOnce(&Proxy) -> T + Send + 'static,
) -> Option<T> {
    let proxy = Arc::clone(proxy);
    tokio::task::spawn_blocking(move || work(&proxy)).await.ok()
}

/// Puts a plan in force: ports first, which may not be had.
fn apply(proxy: &Proxy, doors: &Doors, plan: Plan) -> Result<(), Vec<String>> {
    let text = |errors: Vec<crate::net::bind::ListenError>| {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let bound = listeners::bind(&proxy.config, &plan, |name| doors.is_open(name)).map_err(text)?;
    let one = |error: std::io::Error| vec![error.to_string()];
    proxy.traffic_log.use_only(&plan.log_targets()).map_err(one)?;
    if let Some(mtls) = &plan.mtls {
        proxy.tls.set(mtls.settings.clone()).map_err(|error| vec![format!("MeshTLS: {error}")])?;
    }
    warn(&plan);
    let running = proxy.registry.open(plan);
    proxy.running.store(Arc::clone(&running));
    doors.follow(&running.plan, bound).map_err(one)?;
    tracing::info!(
        documents = running.plan.documents,
        listeners = running.plan.listeners.len(),
        clusters = running.plan.clusters.len(),
        "changed documents are in force"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs;

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_once_nobody_writes_any_more_or_it_goes_on_for_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let write = |bytes: usize| {
            fs::write(&file, "#".repeat(bytes)).unwrap();
            Fingerprint::of(std::slice::from_ref(&file))
        };
        for (changes, expected_looks) in [(0, 1), (2, 3), (100, LOOKS)] {
            let looks = Cell::new(0);
            let seen = settle(write(0), || {
                looks.set(looks.get() + 1);
                let seen = if looks.get() <= changes {
                    write(looks.get())
                } else {
                    Fingerprint::of(std::slice::from_ref(&file))
                };
                std::future::ready(Some(seen))
            });
            assert_eq!(seen.await, Some((Fingerprint::of(std::slice::from_ref(&file)), changes != 100)));
            assert_eq!(looks.get(), expected_looks, "{changes}");
        }
        assert_eq!(settle(write(0), || std::future::ready(None)).await, None);
    }
}
