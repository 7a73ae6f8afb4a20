// SPDX-License-Identifier: Apache-2.0
//! `culvert-install controller`: streams and identities for sidecars, until SIGTERM.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::cli::controller::{ControllerArgs, CrdsArg};
use crate::command::answer::{Answer, Exit};
use crate::command::logging::start_logging;
use crate::controller;
use crate::controller::options::{ControllerOptions, Crds, Settings};
use crate::kube::Client;

/// Time for a connection to the API server.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

/// The process does not run in a pod.
#[derive(Debug, thiserror::Error)]
enum NoApiServer {
    #[error("KUBERNETES_SERVICE_HOST is not set: the controller runs in a pod, where the kubelet sets it")]
    NotSet,
    #[error("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT make no address: {0}")]
    NoAddress(String),
}

pub(crate) fn run(args: &ControllerArgs) -> Answer {
    let api = match api(&args.service_account, |name| std::env::var(name).ok()) {
        Ok(api) => api,
        Err(error) => return Answer::refused(&error, Exit::Usage),
    };
    let Some(posts) = Client::in_cluster(&args.service_account, |name| std::env::var(name).ok()) else {
        return Answer::refused(&NoApiServer::NotSet, Exit::Usage);
    };
    let crds = match args.crds {
        CrdsArg::Auto => Crds::Auto,
        CrdsArg::Always => Crds::Always,
        CrdsArg::Never => Crds::Never,
    };
    let settings = Settings {
        service: args.service.clone(),
        trust_domain: args.trust_domain.clone(),
        secret: args.secret.clone(),
        identity_life: args.identity_life,
        authority_life: args.authority_life,
        crds,
        identity: args.identity.into(),
        // The name of a pod is its host's name.
        instance: std::env::var("HOSTNAME").unwrap_or_else(|_| args.service.name.clone()),
    };
    let options =
        ControllerOptions { listen: args.listen.0, status_address: args.status_address.0, settings };
    start_logging();
    match controller::run(options, api, posts) {
        Ok(()) => Answer::said("", Exit::Well),
        Err(error) => Answer::refused(&error, Exit::Attention),
    }
}

/// Settings for the API server of the cluster that this process runs in. Token and CA are read again as they change.
fn api(folder: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<kube::Config, NoApiServer> {
    let host =
        variable("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty()).ok_or(NoApiServer::NotSet)?;
    let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let host = match host.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host,
    };
    let url = format!("https://{host}:{port}");
    let url = url.parse().map_err(|_| NoApiServer::NoAddress(url))?;
    let mut config = kube::Config::new(url);
    config.root_cert_file = Some(folder.join("ca.crt"));
    config.auth_info.token_file = Some(folder.join("token").to_string_lossy().into_owned());
    config.connect_timeout = Some(CONNECTS_WITHIN);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_api_server() {
        let of = |host: Option<&str>, port: Option<&str>| {
            let (host, port) = (host.map(str::to_owned), port.map(str::to_owned));
            let variable = |name: &str| if name.ends_with("HOST") { host.clone() } else { port.clone() };
            api(Path::new("/sa"), variable)
                .map(|config| config.cluster_url.to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(of(Some("10.0.0.1"), Some("6443")).unwrap(), "https://10.0.0.1:6443/");
        assert_eq!(of(Some("fd00::1"), None).unwrap(), "https://[fd00::1]:443/");
        for (host, port) in [(None, None), (Some(""), Some("443")), (Some("10.0.0.1"), Some("x y"))] {
            assert!(of(host, port).unwrap_err().starts_with("KUBERNETES_SERVICE_HOST"), "{host:?}");
        }
    }
}
