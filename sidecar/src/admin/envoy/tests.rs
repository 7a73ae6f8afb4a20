// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::connection::proxy::Proxy;
use crate::options::Options;
use clap::Parser;
use std::time::Duration;

fn proxy(arguments: &[&str]) -> Proxy {
    let arguments = std::iter::once(&"culvert-sidecar").chain(arguments);
    Proxy::for_tests(Options::try_parse_from(arguments).unwrap().check().unwrap())
}

fn the_dump(proxy: &Proxy) -> Value {
    config_dump(&proxy.config, &proxy.running.load(), SystemTime::UNIX_EPOCH)
}

#[test]
fn the_dump_has_envoys_shape() {
    let dump = the_dump(&proxy(&["--idle-timeout=1500ms"]));
    let mut text = dump::text(&dump).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    for (at, name) in [(1, "OF CLUSTERS"), (2, "OF LISTENERS")] {
        text = text.replace(dump["configs"][at]["version_info"].as_str().unwrap(), name);
    }
    insta::assert_snapshot!(text);
}

/// Excerpts of the dump of a Kong Mesh sidecar, letter by letter, for the listeners that exist here too.
#[test]
fn the_listeners_of_kong_mesh_are_in_the_dump() {
    let dump = the_dump(&proxy(&[]));
    let versions: Vec<_> = [1, 2].map(|at| dump["configs"][at]["version_info"].clone()).into();
    let mut text = dump::text(&dump);
    for version in versions {
        // The first excerpt leaves this out.
        text = text.replace(&format!("      \"version_info\": {version},\n"), "");
    }
    for (name, address, port, direction) in [
        ("inbound:passthrough:ipv4", "0.0.0.0", 15006, "INBOUND"),
        ("outbound:passthrough:ipv6", "::", 15001, "OUTBOUND"),
    ] {
        let excerpt = format!(
            r#"     "name": "{name}",
     "active_state": {{
      "listener": {{
       "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
       "name": "{name}",
       "address": {{
        "socket_address": {{
         "address": "{address}",
         "port_value": {port}
        }}
       }},
"#
        );
        let (_, rest) = text.split_once(&excerpt).unwrap_or_else(|| panic!("{excerpt}{text}"));
        let end =
            format!("       \"use_original_dst\": true,\n       \"traffic_direction\": \"{direction}\"\n");
        let (between, _) = rest.split_once(&end).unwrap_or_else(|| panic!("{end}{rest}"));
        assert!(!between.contains("active_state"), "it is the same listener's: {between}");
    }
}

#[test]
fn a_listener_that_is_off_is_not_on_the_pages() {
    let proxy = proxy(&["--inbound-port=0"]);
    let running = proxy.running.load();
    assert_eq!(
        listeners_text(&running),
        "outbound:passthrough:ipv4::0.0.0.0:15001\noutbound:passthrough:ipv6::[::]:15001\n"
    );
    assert_eq!(listeners_json(&running)["listener_statuses"].as_array().unwrap().len(), 2);
}

#[test]
fn durations_are_protobufs() {
    for (micros, text) in
        [(0, "0s"), (10_000_000, "10s"), (1_500_000, "1.500s"), (20_000, "0.020s"), (1, "0.000001s")]
    {
        assert_eq!(duration(Duration::from_micros(micros)), text);
    }
    assert_eq!(duration(Duration::from_nanos(1)), "0.000000001s");
}

#[test]
fn dates_are_right() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_102_444_800, "2100-01-01T00:00:00Z"),
    ] {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
    }
}
