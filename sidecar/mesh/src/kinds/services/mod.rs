// SPDX-License-Identifier: Apache-2.0
//! Services, and the names that they are called by.
//!
//! | kind | says |
//! |---|---|
//! | `MeshService` | Dataplanes that are one service, and its ports |
//! | `MeshMultiZoneService` | `MeshService`s that are one service |
//! | `MeshExternalService`, `ExternalService` of 2.x | endpoints outside of the mesh, and the TLS that is spoken there |
//! | `HostnameGenerator`, `VirtualOutbound` of 2.x | names of services, by templates |

mod data_source;
mod external_service;
mod hostname_generator;
mod mesh_external_service;
mod mesh_multi_zone_service;
mod mesh_service;
mod port;
mod status;
mod virtual_outbound;

pub use data_source::*;
pub use external_service::*;
pub use hostname_generator::*;
pub use mesh_external_service::*;
pub use mesh_multi_zone_service::*;
pub use mesh_service::*;
pub use port::*;
pub use status::*;
pub use virtual_outbound::*;

#[cfg(test)]
mod tests;
