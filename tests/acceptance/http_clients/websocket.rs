//! WebSocket by Python's `websockets`.

use anyhow::Result;

use super::everywhere;
use super::scripts::Script;

#[test]
fn a_websocket_opens_talks_and_closes_with_its_code() -> Result<()> {
    // Debian's own interpreter: another one in PATH does not see Debian's modules.
    let python = Script {
        program: "/usr/bin/python3".into(),
        name: "websocket.py",
        text: include_str!("websocket.py"),
    };
    everywhere(|world, way| {
        let _server = python.serve(world, way, "serve")?;
        python.ask(world, way, "ask")
    })
}
