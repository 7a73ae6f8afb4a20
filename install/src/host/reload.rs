// SPDX-License-Identifier: Apache-2.0
//! Waits for the runtime to read its folder again, by its own report.

use std::time::Duration;

use super::layout::Layout;
use crate::conflist::TYPE;
use crate::cri::Cri;

/// Pause between two questions.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The configuration that the runtime works by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// One that does not name the plugin, for new pods and for those that end.
    WithoutUs,
    /// The runtime does not report it, or it still names the plugin. CRI-O reports nothing: it ends each pod by the
    /// configuration that the pod was made with.
    Unknown,
}

/// Waits until the runtime works without the plugin, for at most `limit`.
pub(crate) async fn await_without_us(layout: &Layout, limit: Duration) -> Reload {
    let Some(socket) = &layout.runtime_socket else { return Reload::Unknown };
    let asked = async {
        let Ok(mut cri) = Cri::connect(&layout.at(socket)).await else { return Reload::Unknown };
        loop {
            match cri.loaded().await {
                Ok(Some(loaded)) if is_without_us(&loaded) => return Reload::WithoutUs,
                Ok(Some(_)) => tokio::time::sleep(ASK_AGAIN_AFTER).await,
                Ok(None) | Err(_) => return Reload::Unknown,
            }
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(Reload::Unknown)
}

/// Returns true for a report of containerd that holds networks and does not name the plugin.
fn is_without_us(loaded: &str) -> bool {
    let loaded: serde_json::Value = serde_json::from_str(loaded).unwrap_or_default();
    loaded["Networks"].is_array() && !loaded.to_string().contains(TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_networks_is_none() {
        let with = r#"{"Networks":[{"Config":{"Name":"n","Plugins":[{"Network":{"type":"culvert-cni"}}]}}]}"#;
        let without = r#"{"Networks":[{"Config":{"Name":"n","Plugins":[{"Network":{"type":"bridge"}}]}}]}"#;
        assert!(!is_without_us(with) && is_without_us(without));
        for nothing in ["", "null", "{}", r#"{"Networks":null}"#] {
            assert!(!is_without_us(nothing), "{nothing}");
        }
    }
}
