// SPDX-License-Identifier: Apache-2.0
//! Any bytes as configuration on stdin: the result is a decision or an error, and prevResult is handed on as JSON. No panic.
#![no_main]

use culvert_cni::pod::{self, Decision};
use culvert_cni::protocol::{CniArgs, NetConf, error_reply, result_reply};
use culvert_cni::redirect::{nftables, plan};

libfuzzer_sys::fuzz_target!(|stdin: &[u8]| {
    let conf = match NetConf::parse(stdin) {
        Ok(conf) => conf,
        Err(failure) => {
            let reply = error_reply(culvert_cni::protocol::CniVersion::NEWEST, &failure);
            assert_json(&reply);
            return;
        }
    };
    if let Some(prev_result) = &conf.prev_result {
        assert_json(&result_reply(conf.version, prev_result));
    }
    // Without a pod's name the node agent is not asked.
    if let Ok(resolved) = pod::decide(&conf, &CniArgs::default(), |_| -> Result<pod::Annotations, String> { unreachable!() })
        && let Decision::Redirect(policy) = resolved.decided.decision
    {
        let _ = nftables::script(&plan(&policy));
    }
});

fn assert_json(reply: &[u8]) {
    assert!(culvert_cni::protocol::is_json(reply), "{:?}", String::from_utf8_lossy(reply));
}
