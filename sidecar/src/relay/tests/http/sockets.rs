// SPDX-License-Identifier: Apache-2.0
//! The gate over real sockets.
