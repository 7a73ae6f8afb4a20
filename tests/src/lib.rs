//! The lab of culvert: pods without a cluster.
//!
//! ```text
//! Lab ─ namespaces, cables, addresses ─┬─ add(annotations)   the built plugin over its real interface
//!                                      ├─ pod.sidecar()      the built sidecar under its uid
//!                                      ├─ Landing            listeners in the sidecar's place
//!                                      └─ Host, Actor        connections as any uid from any side
//! ```
//! Everything is made by system calls: no `ip`, no `nft`, nothing to install. It needs root.

pub mod api_server;
pub mod authority;
pub mod binaries;
pub mod chart;
pub mod demo;
pub mod family;
pub mod host;
pub mod http;
pub mod lab;
pub mod lab_exec;
pub mod landing;
mod link;
pub mod mounted;
mod netlink;
pub mod netns;
pub mod nft;
pub mod payload;
pub mod plugin;
pub mod process;
pub mod runtime;
pub mod scale;
pub mod server;
pub mod sidecar;
pub mod tls;
pub mod until;
pub mod wire;

pub use authority::{Authority, Wish};
pub use family::{At, Family};
pub use host::{Actor, Host};
pub use lab::Lab;
pub use landing::{Landed, Landing};
pub use payload::{Checksum, Payload};
pub use plugin::{Invocation, Outcome};
pub use sidecar::Sidecar;
pub use wire::{Knock, Segment, Wire};
