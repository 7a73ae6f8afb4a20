//! The acceptance tests of culvert: each is one sentence of the contract, told on the lab. They need root.

mod agent;
mod annotations;
mod bad_input;
mod chart;
mod defaults;
mod dns;
mod forged;
mod guards;
mod kubernetes;
mod kuma;
mod lab;
mod landing;
mod mishaps;
mod networks;
mod plugin;
mod promises;
mod refusals;
mod release;
mod repair;
mod runtime;
mod sidecar;
mod streams;
mod support;
mod verbs;
