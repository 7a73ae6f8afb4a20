// SPDX-License-Identifier: Apache-2.0
//! Whole connections through the public interface: bytes in, bytes forwarded and verdict out.

mod cuts;
mod disputes;
mod expected;
mod opinion;
mod properties;
mod readers;
mod scripts;
mod wire;
