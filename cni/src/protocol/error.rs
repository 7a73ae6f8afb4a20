// SPDX-License-Identifier: Apache-2.0
//! Failures in the terms of the CNI specification: code, message, details.

use crate::shown::cut;

/// An error code: below 100 of the CNI specification, from 100 on the plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Code {
    /// The configuration's cniVersion is missing or not supported.
    IncompatibleVersion = 1,
    /// An environment variable is missing or malformed, or the verb is unknown.
    Environment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// stdin is not JSON, or a key has a value of another type.
    Decode = 6,
    /// The configuration, or an annotation of the pod, cannot be followed.
    Config = 7,
    /// The network namespace does not exist, is no namespace, or is the host's.
    Netns = 8,
    /// A temporary condition: the runtime should try again.
    TryAgain = 11,
    /// STATUS: no engine works on this node.
    NotReady = 50,
    /// CHECK: the kernel's state differs from what ADD would write.
    Drift = 100,
    /// The rules could not be applied, and none of them is left.
    Rules = 101,
    /// A panic, which is a bug of the plugin.
    Bug = 999,
}

/// A failed verb, in the specification's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Kind of the failure, as the number in the CNI error.
    pub(crate) code: Code,
    /// One line of at most 700 characters: the object, the operator's next step, and the value last.
    pub message: String,
    /// Further lines, such as the differences that CHECK found; may be empty.
    pub(crate) details: String,
}

impl Failure {
    /// A failure without details.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: cut(message.into()), details: String::new() }
    }
}
