//! The acceptance tests of culvert: each is one sentence of the contract, told on the lab. They need root.

mod lab;
mod runtime;
