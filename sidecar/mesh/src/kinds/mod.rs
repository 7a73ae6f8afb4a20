// SPDX-License-Identifier: Apache-2.0
//! The kinds of documents, one file each.

pub mod dataplane;
pub mod mesh;
pub mod mesh_access_log;
pub mod mesh_tls;
pub mod mesh_traffic_permission;
pub mod proxy_template;
