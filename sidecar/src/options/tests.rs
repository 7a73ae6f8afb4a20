// SPDX-License-Identifier: Apache-2.0
use super::*;
use clap::CommandFactory;

fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
    Options::try_parse_from(std::iter::once(&"culvert-sidecar").chain(arguments))
}

fn check(arguments: &[&str]) -> Result<Config, Vec<String>> {
    let options = parse(arguments).map_err(|error| vec![error.to_string()])?;
    options.check().map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn defaults_are_stable() {
    let config = check(&["--concurrency", "2"]).unwrap();
    insta::assert_debug_snapshot!(config);
}

#[test]
fn help_is_stable() {
    insta::assert_snapshot!(Options::command().term_width(110).render_long_help());
}

#[test]
fn every_option_is_an_environment_variable_too() {
    for argument in Options::command().get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        if matches!(long, "help" | "version") {
            continue;
        }
        let expected = format!("CULVERT_{}", long.replace('-', "_").to_uppercase());
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()), "--{long}");
    }
}

#[test]
fn one_variable_may_name_several_resources() {
    let paths = check(&["--resources", "/etc/mesh,/etc/more", "--resources", "/run/a"]).unwrap().resources;
    assert_eq!(paths, ["/etc/mesh", "/etc/more", "/run/a"].map(std::path::PathBuf::from));
}

#[test]
fn variables_of_the_dataplane_are_pairs() {
    let read =
        |arguments: &[&str]| check(&[&["--resources=/m"], arguments].concat()).map(|config| config.variables);
    let two =
        [("address", "10.0.0.2"), ("name", "a=b")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(read(&["--dataplane-var", "name=a=b,address=10.0.0.2"]), Ok(two.clone().into()));
    assert_eq!(read(&["--dataplane-var=name=a=b", "--dataplane-var=address=10.0.0.2"]), Ok(two.into()));
    let words = "--dataplane-var name is given twice; give it once".to_owned();
    assert_eq!(read(&["--dataplane-var=name=a,name=b"]), Err(vec![words]));
    for wrong in ["name", "=x", "1a=x", "a b=x", ".a=x", "a=x\ny: z"] {
        let error = read(&["--dataplane-var", wrong]).unwrap_err().join("\n");
        assert!(
            error.contains("--dataplane-var <KEY=VALUE>") && error.contains("write KEY=VALUE"),
            "{error}"
        );
    }
    let error = check(&["--dataplane-var", "name=a"]).unwrap_err().join("\n");
    assert!(error.starts_with("--dataplane-var name=a needs mesh documents"), "{error}");
    let after = parse(&["validate", "/etc/mesh", "--dataplane-var", "name=a"]).unwrap();
    assert_eq!(after.mesh.dataplane_var, [("name".to_owned(), "a".to_owned())]);
}

#[test]
fn an_empty_name_is_refused() {
    for option in ["--mesh", "--dataplane", "--trust-domain"] {
        let error = check(&[option, ""]).unwrap_err().join("\n");
        assert!(error.contains(option), "{error}");
    }
}

#[test]
fn global_options_may_follow_the_subcommand() {
    for arguments in [
        ["wait", "--for", "ready", "--status-address", "127.0.0.1:8080"],
        ["--status-address", "127.0.0.1:8080", "wait", "--for", "ready"],
    ] {
        assert_eq!(parse(&arguments).unwrap().status_address().port(), 8080, "{arguments:?}");
    }
    let options = parse(&["validate", "/etc/mesh", "--mesh", "shop", "--dataplane", "web"]).unwrap();
    assert_eq!((options.mesh.mesh.as_str(), options.mesh.dataplane.as_deref()), ("shop", Some("web")));
}

#[test]
fn zero_means_no_timeout_and_no_listener() {
    let config = check(&["--connect-timeout", "0", "--idle-timeout", "0s", "--inbound-port", "0"]).unwrap();
    assert_eq!(config.connect_timeout, TimeoutOption::Given(None));
    assert_eq!(config.idle_timeout, TimeoutOption::Given(None));
    assert_eq!(config.inbound_port, 0);
}

#[test]
fn the_port_of_the_dns_server_is_the_sidecars_own() {
    let config = check(&["--dns-port", "15053"]).unwrap();
    assert!(config.sidecar_ports().contains(15053));
    assert!(!check(&[]).unwrap().sidecar_ports().contains(0), "off");
    let errors = check(&["--dns-port", "15001"]).unwrap_err();
    assert_eq!(errors, ["--outbound-port and --dns-port both use port 15001; give one of them another port"]);
}

#[test]
fn the_trust_domain_is_the_meshs_name_by_default() {
    let source = |arguments: &[&str]| {
        check(&[&["--resources", "/mesh"], arguments].concat()).unwrap().identity.unwrap()
    };
    let ours = source(&["--identity", "/tls", "--mesh", "shop"]);
    assert_eq!((ours.trust_domain.as_str(), ours.names_services), ("shop", true));
    let named = source(&["--identity", "/tls", "--trust-domain", "cluster.local"]);
    assert_eq!((named.trust_domain.as_str(), named.names_services), ("cluster.local", false));
    let wrong =
        ["--resources", "/m", "--identity", "/tls", "--trust-domain", "spiffe://x", "--app-probes", "[]"];
    let wrong = check(&wrong).unwrap_err();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(
        wrong[0].contains("\"spiffe://x\" is no trust domain") && wrong[1].starts_with("--app-probes: "),
        "{wrong:?}"
    );
}

#[test]
fn a_dataplane_or_an_identity_without_documents_is_an_error() {
    for option in [["--dataplane", "web"], ["--identity", "/tls"]] {
        let words = format!(
            "{} needs mesh documents; name their files or folders with --resources, or a controller with --control",
            option.join(" ")
        );
        assert_eq!(check(&option).unwrap_err(), [words]);
        assert!(check(&[&option[..], &["--resources", "/etc/mesh"]].concat()).is_ok());
    }
}

#[test]
fn the_api_server_must_be_an_address() {
    let with = |host: &str, bypass: &str| {
        let mut options = parse(&["--api-server-bypass", bypass]).unwrap();
        options.mesh.api_server = Some((host.into(), "443".into()));
        options.check()
    };
    assert_eq!(with("10.96.0.1", "on").unwrap().api_server, Some("10.96.0.1:443".parse().unwrap()));
    assert_eq!(with("fd00::1", "on").unwrap().api_server, Some("[fd00::1]:443".parse().unwrap()));
    assert_eq!(with("kubernetes.default", "off").unwrap().api_server, None);
    let error = with("kubernetes.default", "on").unwrap_err()[0].to_string();
    assert!(
        error.contains("kubernetes.default and 443") && error.ends_with("--api-server-bypass off"),
        "{error}"
    );
}

#[test]
fn all_errors_are_reported_at_once() {
    let errors = check(&[
        "--inbound-port",
        "15001",
        "--admin-address",
        "0.0.0.0:15020",
        "--concurrency",
        "0",
        "--identity",
        "/x",
    ])
    .unwrap_err();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn a_value_out_of_range_names_option_value_and_range() {
    for (arguments, expected) in [
        (["--inbound-port", "65536"], "invalid value '65536' for '--inbound-port <PORT>'"),
        (["--inbound-port", "http"], "invalid value 'http' for '--inbound-port <PORT>'"),
        (["--admin-address", "localhost"], "invalid value 'localhost' for '--admin-address <ADDR>'"),
        (["--idle-timeout", "5"], "invalid value '5' for '--idle-timeout <TIME>': not a duration"),
        (["--idle-timeout", "9000h"], "more than a year"),
        (["--verify-redirect", "maybe"], "[possible values: on, ipv4, ipv6, off]"),
        (["--api-server-bypass", "maybe"], "[possible values: on, off]"),
        (["--log-level", "loud"], "[possible values: error, warn, info, debug, trace]"),
        (["--circuit-breaker-max-connections", "4294967296"], "--circuit-breaker-max-connections"),
        (["--access-log", ""], "--access-log"),
        (["--redirekt", "on"], "unexpected argument '--redirekt'"),
    ] {
        let error = check(&arguments).unwrap_err().join("\n");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}
