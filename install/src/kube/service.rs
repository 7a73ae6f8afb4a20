// SPDX-License-Identifier: Apache-2.0
//! A Service by its name and namespace, and the names by which it is dialled.

use std::fmt;
use std::str::FromStr;

/// A Service by its name and namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub name: String,
    pub namespace: String,
}

impl Service {
    /// The names by which it is dialled; API servers use the first.
    pub(crate) fn names(&self) -> Vec<String> {
        let Self { name, namespace } = self;
        let short = format!("{name}.{namespace}");
        vec![format!("{short}.svc"), format!("{short}.svc.cluster.local"), short]
    }
}

/// Error for a text that names no Service.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be NAME.NAMESPACE, such as culvert-injector.culvert-system")]
pub(crate) struct NoService;

impl FromStr for Service {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        let is_label = |part: &str| {
            (1..=63).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        match text.split_once('.') {
            Some((name, namespace)) if is_label(name) && is_label(namespace) => {
                Ok(Self { name: name.to_owned(), namespace: namespace.to_owned() })
            }
            _ => Err(NoService),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let service: Service = "culvert-injector.mesh".parse().unwrap();
        assert_eq!(service.names()[0], "culvert-injector.mesh.svc");
        assert_eq!(service.to_string(), "culvert-injector.mesh");
        for wrong in ["", "a", "a.", ".b", "a.b.svc", "A.b", "-a.b", "a-.b", "a b.c"] {
            assert_eq!(wrong.parse::<Service>(), Err(NoService), "{wrong}");
        }
    }
}
