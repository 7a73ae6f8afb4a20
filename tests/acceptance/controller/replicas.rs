// SPDX-License-Identifier: Apache-2.0
//! Two replicas: both serve, one writes.

use anyhow::Result;
use culvert_tests::eventually;
use rustix::process::Signal;

use super::{Cluster, SOON};

#[test]
fn both_serve_and_one_writes_and_the_other_takes_over() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    let (one, two) = (cluster.starting("one", &[])?, cluster.starting("two", &[])?);
    one.until_ready()?;
    two.until_ready()?;
    for replica in [&one, &two] {
        let connection = cluster.connect(replica)?;
        let mut stream = connection.stream(Some("token-web"))?;
        stream.ask_documents()?;
        stream.response()?;
    }
    let leads =
        |replica: &super::Controller| replica.metric("culvert_controller_leader").is_ok_and(|one| one == 1.0);
    eventually!(leads(&one) != leads(&two), SOON);
    let (leader, other) = if leads(&one) { (one, two) } else { (two, one) };
    // It gives the lease back, so that the other one need not wait for its end.
    leader.process.signal(Signal::TERM)?;
    eventually!(leads(&other), SOON);
    cluster.server.namespace("plain", &[("culvert.dev/inject", "enabled")], &[]);
    eventually!(cluster.map("plain").is_some(), SOON);
    Ok(())
}
