// SPDX-License-Identifier: Apache-2.0
//! Calls of the API server that write, with a deadline.

use std::time::Duration;

use tokio::time::timeout;

/// Manager of the fields that the controller applies, and value of its label.
pub(super) const MANAGER: &str = "culvert-controller";
/// Deadline of one write.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// A write that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {what}: {why}")]
pub(super) struct WriteError {
    what: String,
    why: String,
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Api(kube::Error),
    #[error("the API server does not answer within {} s", ANSWERS_WITHIN.as_secs())]
    Late,
}

impl CallError {
    pub(super) fn is(&self, code: u16) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == code)
    }

    pub(super) fn is_terminating(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.message.contains("being terminated"))
    }
}

pub(super) async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    timeout(ANSWERS_WITHIN, call).await.map_err(|_| CallError::Late)?.map_err(CallError::Api)
}

pub(super) fn failed(what: String, why: impl std::fmt::Display) -> WriteError {
    WriteError { what, why: why.to_string() }
}
