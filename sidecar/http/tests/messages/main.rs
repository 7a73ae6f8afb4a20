// SPDX-License-Identifier: Apache-2.0
//! Whole connections through the public interface: bytes in, bytes forwarded and verdict out.

mod cases;
mod cuts;
mod exceptions;
mod opinion;
mod properties;
mod vectors;
mod wire;
