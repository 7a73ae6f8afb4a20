// SPDX-License-Identifier: Apache-2.0
//! Certificates for members.

use anyhow::{Context, Result};
use culvert_tests::control::{Connection, Status};
use culvert_tests::eventually;
use culvert_tests::until::until_some;
use rcgen::{CertificateParams, KeyPair};

use super::{Cluster, SECRET, SERVER_NAME, SOON};

fn request() -> Result<Vec<u8>> {
    let params = CertificateParams::new(vec!["another.example.com".to_owned()])?;
    Ok(params.serialize_request(&KeyPair::generate()?)?.der().to_vec())
}

#[test]
fn a_pod_gets_a_certificate_for_its_own_account() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let controller = cluster.controller(&["--trust-domain", "example.org", "--identity-life", "1h"])?;
    let connection = cluster.connect(&controller)?;
    let signed = connection.sign(Some("token-web"), request()?)?;
    assert_eq!((signed.chain.len(), signed.roots.len()), (1, 1));
    let text = String::from_utf8_lossy(&signed.chain[0]).into_owned();
    assert!(text.contains("spiffe://example.org/ns/shop/sa/web"), "{text}");
    assert!(!text.contains("another.example.com"), "{text}");
    let audit = controller
        .process
        .stderr()
        .wait_for(SOON, |line| line.contains("a certificate was signed").then(|| line.to_owned()));
    let audit = audit.context("no audit")?;
    for part in ["shop/web", "uid-web", "spiffe://example.org/ns/shop/sa/web", "serial"] {
        assert!(audit.contains(part), "{audit}");
    }
    for (token, csr, code) in
        [(None, request()?, 16), (Some("unknown"), request()?, 16), (Some("token-web"), b"no".to_vec(), 3)]
    {
        let error = connection.sign(token, csr).err().context("it is signed")?;
        assert_eq!(error.downcast::<Status>()?.0, code, "{token:?}");
    }
    assert_eq!(controller.metric("culvert_controller_signatures_total{outcome=\"Signed\"}")?, 1.0);
    Ok(())
}

#[test]
fn a_pod_that_asks_for_certificates_all_the_time_is_held_back_and_no_other() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    cluster.member("shop", "db", "10.0.0.2", "db");
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let refused = |_| connection.sign(Some("token-web"), request().ok()?).err()?.downcast::<Status>().ok();
    // Ten within a minute; a test that takes longer sees more, but never all of them.
    let first = (0..200).find_map(refused).context("each is signed")?;
    assert_eq!(first.0, 8, "{first}");
    connection.sign(Some("token-db"), request()?)?;
    Ok(())
}

#[test]
fn who_trusts_another_authority_does_not_connect() -> Result<()> {
    let (cluster, other) = (Cluster::new()?, Cluster::new()?);
    let (controller, _other) = (cluster.controller(&[])?, other.controller(&[])?);
    Connection::open(controller.listen, &cluster.bundle()?, SERVER_NAME)?;
    assert!(Connection::open(controller.listen, &other.bundle()?, SERVER_NAME).is_err());
    assert!(Connection::open(controller.listen, &cluster.bundle()?, "culvert-controller.other.svc").is_err());
    Ok(())
}

#[test]
fn an_authority_of_the_users_is_used_and_never_written() -> Result<()> {
    let cluster = Cluster::new()?;
    let first = cluster.controller(&[])?;
    let ours = cluster.server.get(SECRET).context("no Secret")?;
    assert_eq!(ours["metadata"]["labels"]["app.kubernetes.io/managed-by"], "culvert-controller");
    drop(first);
    // The same content as a Secret of the user's.
    let (cluster, mut secret) = (Cluster::new()?, ours);
    secret["metadata"] = serde_json::json!({ "name": "culvert-authority", "namespace": "mesh" });
    cluster.server.put(SECRET, secret.clone());
    let controller = cluster.controller(&[])?;
    cluster.connect(&controller)?;
    assert_eq!(cluster.server.get(SECRET).context("it is gone")?["data"], secret["data"]);
    Ok(())
}

#[test]
fn an_authority_changes_without_a_gap() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    // The next one is published 2 s before the end, and signs a second later.
    let controller = cluster.controller(&["--authority-life", "20s", "--identity-life", "10s"])?;
    let first = cluster.bundle()?;
    let count = |bundle: &str| bundle.matches("BEGIN").count();
    assert_eq!(count(&first), 1);
    let before = cluster.connect(&controller)?.sign(Some("token-web"), request()?)?;
    eventually!(cluster.bundle().is_ok_and(|bundle| count(&bundle) == 2), SOON);
    let both = cluster.bundle()?;
    assert!(both.starts_with(first.trim_end()), "the one that signs comes first");
    // Who was told of both, and nothing since, takes the controller after the change.
    let signs = || {
        let bundle = cluster.bundle().ok()?;
        (count(&bundle) == 2 && !bundle.starts_with(first.trim_end())).then_some(())
    };
    until_some(SOON, signs).context("the next one never signs")?;
    let after =
        Connection::open(controller.listen, &both, SERVER_NAME)?.sign(Some("token-web"), request()?)?;
    assert_eq!(after.roots.len(), 2);
    assert!(after.roots.contains(&before.roots[0]), "what the first one signed is still good");
    Ok(())
}
