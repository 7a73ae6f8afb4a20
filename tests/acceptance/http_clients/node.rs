//! Node's `http` and `http2`, as server and as client.

use anyhow::Result;

use super::scripts::Script;
use super::{everywhere, program};

fn node() -> Result<Script> {
    Ok(Script { program: program("node")?, name: "node.mjs", text: include_str!("node.mjs") })
}

/// Agents that keep connections, chunks with trailers, 100 and 103, HEAD, an upgrade.
#[test]
fn nodes_http_finds_all_that_its_server_sends() -> Result<()> {
    let node = node()?;
    everywhere(|world, way| {
        let _server = node.serve(world, way, "serve-http")?;
        node.ask(world, way, "ask-http")
    })
}

#[test]
fn nodes_http2_exchanges_bodies_and_trailers() -> Result<()> {
    let node = node()?;
    everywhere(|world, way| {
        let _server = node.serve(world, way, "serve-http2")?;
        node.ask(world, way, "ask-http2")
    })
}
