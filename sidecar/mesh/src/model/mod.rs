// SPDX-License-Identifier: Apache-2.0
//! Plain data that documents and those who act by them both know.

pub mod address;
pub mod addresses;
pub mod duration;
pub mod host_name;
pub mod labels;
pub mod log_template;
pub mod network;
pub mod percentage;
pub mod spiffe;
pub mod tags;
pub mod time_format;
