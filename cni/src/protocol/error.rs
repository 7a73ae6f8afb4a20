// SPDX-License-Identifier: Apache-2.0
//! What a runtime is told when a verb fails: code, message, details.

/// An error code of the CNI specification, or one of our own (100 and up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The configuration's cniVersion is not one that we speak.
    IncompatibleVersion = 1,
    /// An environment variable is missing or malformed, or the verb is unknown.
    Environment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// stdin is not the JSON that it should be.
    Decode = 6,
    /// The configuration, or an annotation of the pod, cannot be followed.
    Config = 7,
    /// The network namespace does not exist, is none, or is the host's.
    Netns = 8,
    /// A condition that may pass: the runtime should try again.
    TryAgain = 11,
    /// STATUS: this node cannot ADD.
    NotReady = 50,
    /// CHECK: the kernel's state is not what ADD would write.
    Drift = 100,
    /// The rules could not be applied, and nothing of ours is left.
    Rules = 101,
    /// A bug of ours.
    Bug = 999,
}

/// A failed verb, in the specification's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is.
    pub code: Code,
    /// One line: the thing, its value, and what to do next.
    pub message: String,
    /// More than one line, where there is more to say; may be empty.
    pub details: String,
}

impl Failure {
    /// A failure that one line says in full.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }
}
