// SPDX-License-Identifier: Apache-2.0
//! Destinations that no document names, where a controller may know them: the first connection asks, and goes on once the
//! answer is in force.

use crate::cluster::registry::Running;
use crate::connection::error::ForwardError;
use crate::connection::proxy::Proxy;
use crate::connection::route::{self, Route};
use crate::control::{Control, LookUp};
use crate::dns::NameSource;
use crate::net::addrs::{Direction, OrigDst};
use crate::plan::{Origin, TlsMode};
use std::sync::Arc;

/// Returns the route by what the controller knows of the destination. `running` becomes the plan with the answer.
///
/// Without a controller, and for inbound connections, it is the route as it stands.
pub(crate) async fn looked_up(
    proxy: &Proxy,
    running: &mut Arc<Running>,
    route: Route,
    original: OrigDst,
) -> Result<Route, ForwardError> {
    let Some(control) = &proxy.control else { return Ok(route) };
    if route.listener.plan.direction == Direction::Inbound {
        return Ok(route);
    }
    // Before all else, as it notes the use.
    let knows = control.knows(original.get());
    if is_named(&route) {
        if !knows && let Some(host) = running.told_name_of(original.get()) {
            NameSource::knows(&**control, &host);
        }
        return Ok(route);
    }
    if knows {
        // The answer may have come after the route was found.
        *running = proxy.running.load_full();
        return Ok(route::route(running, Direction::Outbound, original));
    }
    // Boxed, so that other connections do not carry the room of it.
    Box::pin(asked(proxy, control, running, route, original)).await
}

/// Returns true if a document names the destination.
fn is_named(route: &Route) -> bool {
    route.listener.plan.origin != Origin::Transparent || route.member.is_some()
}

async fn asked(
    proxy: &Proxy,
    control: &Control,
    running: &mut Arc<Running>,
    route: Route,
    original: OrigDst,
) -> Result<Route, ForwardError> {
    if control.ask(original.get()).await {
        *running = proxy.running.load_full();
        return Ok(route::route(running, Direction::Outbound, original));
    }
    // A match of a MeshPassthrough says itself that nobody of the mesh is there.
    let unknown = route.cluster.as_ref().is_some_and(|cluster| cluster.plan.origin == Origin::Transparent);
    let strict = running.plan.mtls.as_ref().is_some_and(|mtls| mtls.mode() == TlsMode::Strict);
    if unknown && strict {
        control.metrics.look_ups[LookUp::LateRefused].inc();
        return Err(ForwardError::Unanswered(original));
    }
    control.metrics.look_ups[LookUp::LateLetOut].inc();
    Ok(route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::registry::Registry;
    use crate::observe::close_reason::CloseReason;
    use crate::options::Options;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    const AT: &str = "10.0.0.9:8000";
    const MEMBER: &str = "---
{type: Dataplane, name: web-1, networking: {address: 10.0.0.9, inbound: [{port: 8000, tags: {kuma.io/service: web}}]}}
";

    fn mesh(mode: &str, passthrough: bool) -> String {
        format!(
            "{{type: Mesh, name: default, networking: {{outbound: {{passthrough: {passthrough}}}}}, mtls: {{enabledBackend: ca, backends: [{{name: ca, mode: {mode}}}]}}}}\n"
        )
    }

    fn proxy(documents: &str) -> Proxy {
        let config = Options::try_parse_from([
            "culvert-sidecar",
            "--pod-name=a",
            "--pod-ip=10.0.0.2",
            "--control=https://controller",
            "--control-ca=/ca.crt",
        ]);
        let mut config = config.unwrap().check().unwrap();
        config.dataplane = None;
        config.api_server = Some("10.96.0.1:443".parse().unwrap());
        let loaded = read_with_mesh(&config, documents, "mesh.yaml");
        let plan = compile(&config, &loaded.found).unwrap();
        Proxy::with_plan(config, plan)
    }

    /// Name of the cluster of a connection; `None` where the mesh denies it.
    async fn way(
        proxy: &Proxy,
        direction: Direction,
        original: &str,
    ) -> Result<Option<String>, ForwardError> {
        let mut running = proxy.running.load_full();
        let original = OrigDst::new(original.parse().unwrap());
        let route = route::route(&running, direction, original);
        let route = looked_up(proxy, &mut running, route, original).await?;
        Ok(route.cluster.map(|cluster| cluster.plan.name.to_string()))
    }

    fn counts(proxy: &Proxy) -> [u64; 4] {
        let metrics = &proxy.control.as_ref().unwrap().metrics;
        [LookUp::Known, LookUp::Answered, LookUp::LateLetOut, LookUp::LateRefused]
            .map(|result| metrics.look_ups[result].get())
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_passthrough_decides_and_strict_refuses_what_it_would_let_out() {
        let open = Some("outbound:passthrough:ipv4".to_owned());
        for (mode, passthrough, expected, counted) in [
            ("PERMISSIVE", true, Some(open.clone()), [0, 0, 1, 0]),
            ("PERMISSIVE", false, Some(None), [0, 0, 1, 0]),
            ("STRICT", true, None, [0, 0, 0, 1]),
            ("STRICT", false, Some(None), [0, 0, 1, 0]),
        ] {
            let proxy = proxy(&mesh(mode, passthrough));
            let way = way(&proxy, Direction::Outbound, AT).await;
            if let Err(error) = &way {
                assert_eq!(error.reason(), CloseReason::Unanswered);
            }
            assert_eq!((way.ok(), counts(&proxy)), (expected, counted), "{mode} {passthrough}");
        }
        let matched = "---\n{type: MeshPassthrough, name: p, spec: {default: {passthroughMode: Matched, appendMatch: [{type: IP, value: 10.0.0.9}]}}}\n";
        let proxy = proxy(&(mesh("STRICT", true) + matched));
        let way = way(&proxy, Direction::Outbound, AT).await.unwrap();
        assert_eq!(way.as_deref(), Some("meshpassthrough_tcp_10.0.0.9_*"));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_about_what_is_named_or_apart() {
        let proxy = proxy(&(mesh("STRICT", true) + MEMBER));
        let begun = tokio::time::Instant::now();
        for (direction, at) in [
            (Direction::Outbound, AT),
            (Direction::Outbound, "10.96.0.1:443"),
            (Direction::Outbound, "10.96.0.10:53"),
            (Direction::Outbound, "127.0.0.1:80"),
            (Direction::Inbound, "10.0.0.2:80"),
        ] {
            assert!(way(&proxy, direction, at).await.is_ok(), "{at}");
        }
        assert_eq!((counts(&proxy), begun.elapsed().as_millis()), ([0; 4], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_answer_the_connection_is_routed_anew_and_the_next_one_does_not_wait() {
        let proxy = proxy(&mesh("STRICT", false));
        let original = OrigDst::new(AT.parse().unwrap());
        let mut before = proxy.running.load_full();
        let route_before = route::route(&before, Direction::Outbound, original);
        let answering = async {
            let control = proxy.control.as_ref().unwrap();
            control.answer_next(|| {
                let loaded = read_with_mesh(&proxy.config, &(mesh("STRICT", false) + MEMBER), "mesh.yaml");
                let plan = compile(&proxy.config, &loaded.found).unwrap();
                proxy.running.store(Registry::default().open(plan));
            })
        };
        let (way_of_first, ()) = tokio::join!(way(&proxy, Direction::Outbound, AT), answering);
        assert_eq!(way_of_first.unwrap().as_deref(), Some("direct_access"));
        assert_eq!(counts(&proxy), [0, 1, 0, 0]);
        assert_eq!(way(&proxy, Direction::Outbound, AT).await.unwrap().as_deref(), Some("direct_access"));
        assert_eq!(counts(&proxy), [1, 1, 0, 0]);
        // One that was routed before the answer came goes no other way.
        let late = looked_up(&proxy, &mut before, route_before, original).await.unwrap();
        assert_eq!(late.cluster.unwrap().plan.name.to_string(), "direct_access");
    }
}
