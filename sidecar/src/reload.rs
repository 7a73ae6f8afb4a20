// SPDX-License-Identifier: Apache-2.0
//! Documents that change while the sidecar runs: looked at each second, loaded, checked, and put in force as a whole or not
//! at all. Connections that are open keep what they began with.

use crate::config::Config;
use crate::doors::{self, Doors};
use crate::plan::Plan;
use crate::proxy::Proxy;
use crate::resources::files::Fingerprint;
use crate::resources::{self, ResourceError};
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at. A watch would use up inotify instances, of which a uid has 128 on the whole node.
const EVERY: Duration = Duration::from_secs(1);

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
    loop {
        tokio::time::sleep(EVERY).await;
        let looked = blocking(&proxy, |proxy| Fingerprint::of(&proxy.config.resources)).await;
        let Some(seen) = looked.filter(|seen| *seen != last) else { continue };
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
        if loaded.1 != seen {
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
    let text = |errors: Vec<crate::listener::ListenError>| {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let bound = doors::bind(&proxy.config, &plan, |name| doors.is_open(name)).map_err(text)?;
    let one = |error: std::io::Error| vec![error.to_string()];
    proxy.traffic_log.use_only(&plan.log_targets()).map_err(one)?;
    if let Some(mtls) = &plan.mtls {
        proxy.tls.set(mtls.settings.clone()).map_err(|error| vec![format!("MeshTLS: {error}")])?;
    }
    warn(&plan);
    let running = proxy.books.open(plan);
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
