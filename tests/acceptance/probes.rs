// SPDX-License-Identifier: Apache-2.0
//! A kubelet's probes by the status port: the application is asked where the kubelet asked, and as the kubelet would.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use culvert_tests::server::http as page;
use culvert_tests::{Family, Lab, http};
use serde_json::json;

use crate::support::APP;

/// In the order of addresses before that of the pod: as of a second network.
const SECOND: &str = "10.9.0.2";

/// The status that a kubelet gets at an address of the pod.
fn probe(lab: &Lab, at: IpAddr, name: &str) -> Result<u16> {
    let stream = lab.peer.connect(SocketAddr::from((at, 15020)))?;
    Ok(http::get(stream, &format!("/app-health/web/{name}"))?.status)
}

#[test]
fn the_application_is_asked_at_the_address_that_the_kubelet_asked() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    lab.pod.add_address("eth0", &format!("{SECOND}/24"))?;
    lab.peer.add_address("eth0", "10.9.0.1/24")?;
    let probes = json!({
        "/app-health/web/httpz": { "httpGet": { "port": 8080, "path": "/" } },
        "/app-health/web/tcpz": { "tcpSocket": { "port": 8080 } },
    });
    let _sidecar = lab.pod.sidecar().options(["--app-probes", &probes.to_string()]).start()?;
    let second: IpAddr = SECOND.parse()?;
    let all = [Family::V4.pod(), Family::V6.pod(), second];
    // An application at one address alone is healthy there, and nowhere else.
    for listens in all {
        let _application = lab.pod.as_uid(APP).serve((listens, 8080), page("healthy"))?;
        for asked in all {
            let expected = if asked == listens { 200 } else { 503 };
            for name in ["httpz", "tcpz"] {
                let status = probe(&lab, asked, name).with_context(|| format!("{name} at {asked}"))?;
                assert_eq!(status, expected, "{name}: it listens at {listens}, and the kubelet asks {asked}");
            }
        }
    }
    Ok(())
}

/// It came after the sidecar's start.
#[test]
fn a_late_address_is_asked_too() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let probes = json!({ "/app-health/web/tcpz": { "tcpSocket": { "port": 8080 } } });
    let _sidecar = lab.pod.sidecar().options(["--app-probes", &probes.to_string()]).start()?;
    lab.pod.add_address("eth0", &format!("{SECOND}/24"))?;
    lab.peer.add_address("eth0", "10.9.0.1/24")?;
    let second: IpAddr = SECOND.parse()?;
    let _application = lab.pod.as_uid(APP).listen((second, 8080))?;
    assert_eq!(probe(&lab, second, "tcpz")?, 200);
    assert_eq!(probe(&lab, Family::V4.pod(), "tcpz")?, 503);
    Ok(())
}
