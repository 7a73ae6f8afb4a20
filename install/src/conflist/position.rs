// SPDX-License-Identifier: Apache-2.0
//! Place of our entry in a chain of plugins.

use std::str::FromStr;

/// Place of our entry in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    /// Behind every other plugin.
    Last,
    /// Behind the last plugin of this type, or behind all if there is none.
    After(String),
}

/// A text that names no position.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be `last`, or `after:TYPE` with the type of a plugin, such as `after:portmap`")]
pub(crate) struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        match text.strip_prefix("after:") {
            None if text == "last" => Ok(Self::Last),
            Some(plugin) if !plugin.is_empty() && !plugin.contains('/') => Ok(Self::After(plugin.to_owned())),
            _ => Err(NoPosition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        assert_eq!("last".parse(), Ok(Position::Last));
        assert_eq!("after:portmap".parse(), Ok(Position::After("portmap".to_owned())));
        for wrong in ["", "first", "after:", "after", "after:../x", "Last"] {
            assert_eq!(wrong.parse::<Position>(), Err(NoPosition), "{wrong}");
        }
    }
}
