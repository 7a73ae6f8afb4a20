// SPDX-License-Identifier: Apache-2.0
//! Whole connections through the public interface: bytes in, bytes forwarded and verdict out.

mod cuts;
mod expected;
mod opinion;
mod properties;
mod scripts;
mod wire;
