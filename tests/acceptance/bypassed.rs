//! A pod whose packets bypass the rules: the sidecar says what to look for.

use anyhow::Result;
use culvert_tests::until::DEADLINE;
use culvert_tests::{Lab, eventually};

#[test]
fn a_sidecar_whose_connections_do_not_come_back_names_sandboxes_that_bypass_the_rules() -> Result<()> {
    let lab = Lab::new()?;
    let sidecar = lab.pod.sidecar().start_unready()?;
    let ready = || sidecar.status("/ready");
    eventually!(
        ready().is_ok_and(|ready| ready.status == 503 && ready.body.contains("did not come back")),
        DEADLINE
    );
    let said = ready()?.body;
    for word in ["conflist", "culvert.dev/redirect", "proxy-uid", "Kata (tc mirred)", "gVisor"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    Ok(())
}
