// SPDX-License-Identifier: Apache-2.0
//! What happens on a connection, in order.

/// Event on a connection.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Client(Vec<u8>),
    Server(Vec<u8>),
    ClientFin,
    ServerFin,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(bytes) => write!(f, "client \"{}\"", bytes.escape_ascii()),
            Self::Server(bytes) => write!(f, "server \"{}\"", bytes.escape_ascii()),
            Self::ClientFin => f.write_str("client FIN"),
            Self::ServerFin => f.write_str("server FIN"),
        }
    }
}

impl Event {
    /// Returns the number of its bytes.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Client(bytes) | Self::Server(bytes) => bytes.len(),
            Self::ClientFin | Self::ServerFin => 0,
        }
    }

    /// Returns the piece of it between two of its bytes.
    pub(crate) fn piece(&self, from: usize, to: usize) -> Self {
        match self {
            Self::Client(bytes) => Self::Client(bytes[from..to].to_vec()),
            Self::Server(bytes) => Self::Server(bytes[from..to].to_vec()),
            fin => fin.clone(),
        }
    }

    /// Returns the places to cut it: all of a short one, and a choice of a long one's.
    pub(crate) fn cuts(&self) -> impl Iterator<Item = usize> + use<> {
        let length = self.length();
        (1..length).filter(move |at| length <= 4096 || *at < 100 || length - at < 100 || at % 997 == 0)
    }
}
