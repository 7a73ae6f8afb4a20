// SPDX-License-Identifier: Apache-2.0
//! `/names`: the names of the mesh and what they lead to, as the command `resolve` shows one of them.

use crate::admin::query;
use crate::admin::reply::{self, Reply};
use crate::cluster::health::EndpointHealth;
use crate::cluster::registry::Cluster;
use crate::connection::proxy::Proxy;
use crate::dns::resolv_conf;
use crate::net::addrs::Family;
use crate::net::routes::reaches_now;
use crate::plan::names::shown::{Directory, Healths, PodNames, Surroundings};
use hyper::StatusCode;
use regex_lite::Regex;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

/// Path of the page.
pub(super) const PATH: &str = "/names";

/// A request's question.
struct Question {
    name: Option<String>,
    filter: Option<Regex>,
    page: usize,
    json: bool,
}

impl Question {
    fn of(query: &str) -> Result<Self, String> {
        let mut question = Self { name: None, filter: None, page: 1, json: false };
        for (key, value) in query::pairs(query) {
            match (key.as_str(), value.as_str()) {
                ("name", name) => question.name = Some(name.into()),
                ("filter", pattern) => {
                    let regex = Regex::new(pattern).map_err(|error| format!("?filter={pattern}: {error}"))?;
                    question.filter = Some(regex);
                }
                ("page", number) => {
                    let number = number.parse().ok().filter(|number| *number > 0);
                    question.page =
                        number.ok_or_else(|| format!("?page={value}: pages are numbers from 1"))?;
                }
                ("format", "json") => question.json = true,
                ("format", "text") => question.json = false,
                _ => {
                    return Err(
                        "only ?filter=REGEX, ?page=N, ?name=NAME and ?format=text or json are known".into()
                    );
                }
            }
        }
        Ok(question)
    }
}

/// Answers with a page of the list, or with all about one name: 404 where that does not exist, with the reasons.
pub(super) fn page(proxy: &Proxy, query: &str) -> Reply {
    match looked(proxy, query) {
        Ok(reply) => reply,
        Err(wrong) => reply::text(StatusCode::BAD_REQUEST, wrong),
    }
}

fn looked(proxy: &Proxy, query: &str) -> Result<Reply, String> {
    let Question { name, filter, page, json } = Question::of(query)?;
    let running = proxy.running.load();
    let used = running.used_clusters();
    let clusters: HashMap<&str, &Arc<Cluster>> =
        used.iter().map(|cluster| (&*cluster.plan.name, cluster)).collect();
    let lines = &running.plan.names.on_demand;
    let uncalled: HashMap<&str, usize> =
        lines.new_clusters().map(|at| (&**lines.cluster_name(at), at)).collect();
    // Nothing is known of endpoints that no connection came for, so that they are in service.
    let in_service = |at: &usize| lines.endpoints(*at).iter().map(|one| (one.address, IN_SERVICE)).collect();
    let health = |name: &str| match clusters.get(name) {
        Some(cluster) => healths(cluster),
        None => uncalled.get(name).map(in_service).unwrap_or_default(),
    };
    let plan = running.whole_plan();
    let directory = Directory::new(&plan, &health);
    let Some(name) = name else {
        let list = directory.list(page, |text| filter.as_ref().is_none_or(|regex| regex.is_match(text)));
        return Ok(shown(StatusCode::OK, &list, json));
    };
    let around = Surroundings { config: &proxy.config, pod: Some(pod(proxy)) };
    let answer = directory.resolve(&name, &around).map_err(|error| error.to_string())?;
    let status = if answer.exists() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Ok(shown(status, &answer, json))
}

fn shown<T: Display + serde::Serialize>(status: StatusCode, answer: &T, json: bool) -> Reply {
    if !json {
        return reply::text(status, answer.to_string().trim_end());
    }
    let mut reply = reply::json(answer);
    if reply.status() == StatusCode::OK {
        *reply.status_mut() = status;
    }
    reply
}

/// Reads what the pod says about names: the file and the routes as they are now.
fn pod(proxy: &Proxy) -> PodNames {
    let servers = resolv_conf::read(&proxy.config.resolv_conf, proxy.config.dns_port);
    PodNames { servers: servers.unwrap_or_default(), reaches: [Family::V4, Family::V6].map(reaches_now) }
}

fn healths(cluster: &Cluster) -> Healths {
    cluster.health().map(|endpoint| (endpoint.address, word(&endpoint))).collect()
}

/// The standing of an endpoint that is not checked, and did not fail.
const IN_SERVICE: &str = "in service";

/// Says the standing of an endpoint in a word or two.
fn word(of: &EndpointHealth) -> &'static str {
    match (of.unhealthy, of.ejected, of.checked) {
        (true, _, _) => "fails its checks",
        (false, true, _) => "ejected",
        (false, false, true) => "passes its checks",
        (false, false, false) => IN_SERVICE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;

    #[test]
    fn a_question_is_read_and_a_wrong_one_says_what_is_known() {
        let asked = Question::of("filter=%5Eweb&page=3&format=json").unwrap();
        assert!(
            asked.filter.unwrap().as_str() == "^web" && asked.page == 3 && asked.json && asked.name.is_none()
        );
        let asked = Question::of("name=web.mesh&format=text").unwrap();
        assert!(asked.name.as_deref() == Some("web.mesh") && !asked.json);
        for (wrong, reason) in [
            ("filter=(", "?filter=(: "),
            ("page=0", "?page=0: pages are numbers from 1"),
            ("page=-1", "?page=-1: "),
            ("page=x", "?page=x: "),
            ("format=xml", "only ?filter=REGEX, "),
            ("host=web", "only ?filter=REGEX, "),
        ] {
            let error = Question::of(wrong).map(|_| ()).unwrap_err();
            assert!(error.starts_with(reason), "{wrong}: {error}");
        }
    }

    #[test]
    fn the_standing_of_an_endpoint_has_a_word() {
        let address = "10.0.0.1:80".parse().unwrap();
        for (unhealthy, ejected, checked, expected) in [
            (false, false, false, "in service"),
            (false, false, true, "passes its checks"),
            (false, true, true, "ejected"),
            (false, true, false, "ejected"),
            (true, false, true, "fails its checks"),
            (true, true, true, "fails its checks"),
        ] {
            assert_eq!(word(&EndpointHealth { address, ejected, unhealthy, checked }), expected);
        }
    }

    #[test]
    fn a_pod_says_its_servers_and_a_file_that_is_missing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let config = |path: &std::path::Path| {
            let path = format!("--resolv-conf={}", path.display());
            Options::try_parse_from(["culvert-sidecar", &path]).unwrap().check().unwrap()
        };
        assert_eq!(pod(&Proxy::for_tests(config(&file))).servers, []);
        std::fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
        assert_eq!(
            pod(&Proxy::for_tests(config(&file))).servers,
            ["192.0.2.53:53".parse::<std::net::SocketAddr>().unwrap()]
        );
    }
}
