// SPDX-License-Identifier: Apache-2.0
//! Connections as events, with what has to come out of them. Data alone: every owner of an exchange plays them.

pub(crate) mod cases;
mod event;
pub(crate) mod exceptions;
pub(crate) mod vectors;

pub(crate) use event::Event;
