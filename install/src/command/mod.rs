// SPDX-License-Identifier: Apache-2.0
//! One module a command.

pub(crate) mod agent;
pub(crate) mod answer;
pub(crate) mod await_uninstall;
pub(crate) mod controller;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod inject;
pub(crate) mod logging;
pub(crate) mod redirect;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod uninstall;
