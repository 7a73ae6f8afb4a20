// SPDX-License-Identifier: Apache-2.0
//! A listener for an option of the command line.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("--{option} {address}: {source}")]
pub(crate) struct ListenError {
    option: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// Listens on the address of an option, and logs it. `backlog` is the number of connections that the kernel may finish before
/// they are accepted.
pub(crate) fn listen(
    option: &'static str,
    address: SocketAddr,
    backlog: i32,
) -> Result<TcpListener, ListenError> {
    let failed = |source| ListenError { option, address, source };
    let listener =
        culvert_serve::bind_with(address, backlog, |_| Ok(())).map_err(|error| failed(error.source))?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening for --{option}");
    }
    Ok(listener)
}
