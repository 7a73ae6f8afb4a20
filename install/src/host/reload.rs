// SPDX-License-Identifier: Apache-2.0
//! Whether the runtime has read its folder again: what it says itself.

use std::time::Duration;

use super::layout::Layout;
use crate::conflist::TYPE;
use crate::cri::Cri;

/// Between two questions.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What the runtime works by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// A configuration that does not name us, for new pods and for those that end.
    WithoutUs,
    /// It does not say, or names us still. CRI-O does not say: it ends each pod by what the pod was made with.
    Unknown,
}

/// Waits until the runtime works without us.
pub(crate) async fn await_without_us(layout: &Layout, limit: Duration) -> Loaded {
    let Some(socket) = &layout.runtime_socket else { return Loaded::Unknown };
    let asked = async {
        let Ok(mut cri) = Cri::connect(&layout.at(socket)).await else { return Loaded::Unknown };
        loop {
            match cri.loaded().await {
                Ok(Some(loaded)) if is_without_us(&loaded) => return Loaded::WithoutUs,
                Ok(Some(_)) => tokio::time::sleep(ASK_AGAIN_AFTER).await,
                Ok(None) | Err(_) => return Loaded::Unknown,
            }
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(Loaded::Unknown)
}

/// Whether containerd's word on its configuration is one, and does not name us.
fn is_without_us(loaded: &str) -> bool {
    let loaded: serde_json::Value = serde_json::from_str(loaded).unwrap_or_default();
    loaded["Networks"].is_array() && !loaded.to_string().contains(TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_says_is_understood() {
        let with = r#"{"Networks":[{"Config":{"Name":"n","Plugins":[{"Network":{"type":"culvert-cni"}}]}}]}"#;
        let without = r#"{"Networks":[{"Config":{"Name":"n","Plugins":[{"Network":{"type":"bridge"}}]}}]}"#;
        assert!(!is_without_us(with) && is_without_us(without));
        for nothing in ["", "null", "{}", r#"{"Networks":null}"#] {
            assert!(!is_without_us(nothing), "{nothing}");
        }
    }
}
