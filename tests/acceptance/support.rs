//! Assertions and helpers that several tests share.

use std::fmt::Write;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use culvert_tests::until::uninterrupted;
use culvert_tests::{Actor, At, Landed, Landing};

/// An application's uid.
pub(crate) const APP: u32 = 1000;
/// The sidecar's uid in a pod with defaults.
pub(crate) const SIDECAR: u32 = culvert_tests::pod::sidecar::UID;

/// Makes a test of each function for each engine: the same connections have to land in the same places.
macro_rules! by_every_engine {
    ($($test:ident),* $(,)?) => {
        by_every_engine!(@ nftables "nftables" $($test)*);
        by_every_engine!(@ iptables_nft "iptables-nft" $($test)*);
        by_every_engine!(@ iptables_legacy "iptables-legacy" $($test)*);
    };
    (@ $module:ident $engine:literal $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $test() -> anyhow::Result<()> {
                    super::$test($engine)
                }
            )*
        }
    };
}
pub(crate) use by_every_engine;

/// Connections with the place where each has to land; all are tried before the test fails.
pub(crate) struct Rows<'a> {
    landing: &'a Landing,
    wrong: String,
}

impl<'a> Rows<'a> {
    pub(crate) fn of(landing: &'a Landing) -> Self {
        Self { landing, wrong: String::new() }
    }

    /// One row: who connects to what, and where that has to land.
    pub(crate) fn row(&mut self, what: &str, actor: Actor<'_>, to: impl At, expected: Landed) -> Result<()> {
        let to = to.at();
        let landed = self.landing.of(actor, to)?;
        if landed != expected {
            writeln!(self.wrong, "{what} → {to}: expected {expected}, got {landed}")?;
        }
        Ok(())
    }

    /// A row that goes to its target directly.
    pub(crate) fn direct(&mut self, what: &str, actor: Actor<'_>, to: impl At) -> Result<()> {
        self.row(what, actor, to, Landed::Direct)
    }

    /// A row that the outbound listener gets.
    pub(crate) fn outbound(&mut self, what: &str, actor: Actor<'_>, to: impl At) -> Result<()> {
        let to = to.at();
        self.row(what, actor, to, Landed::Outbound(to))
    }

    /// A row that the inbound listener gets.
    pub(crate) fn inbound(&mut self, what: &str, actor: Actor<'_>, to: impl At) -> Result<()> {
        let to = to.at();
        self.row(what, actor, to, Landed::Inbound(to))
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.wrong.is_empty(), "connections landed elsewhere:\n{}", self.wrong);
        }
    }
}

/// Reads to the end of a stream.
pub(crate) fn read_all(mut stream: impl Read) -> io::Result<String> {
    let mut all = String::new();
    stream.read_to_string(&mut all)?;
    Ok(all)
}

/// Fails unless the connection is reset before a byte arrives.
#[track_caller]
pub(crate) fn assert_reset(mut stream: TcpStream, what: &str) {
    match uninterrupted(|| stream.read(&mut [0; 64])) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{what}: expected a reset, got {other:?}"),
    }
}

/// Fails unless the connection is taken and reset at once. A reset that comes with the end of the handshake is an
/// error of `connect` already.
#[track_caller]
pub(crate) fn assert_taken_and_reset(connected: io::Result<TcpStream>, what: &str) {
    match connected {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("{what}: expected a reset, got {e}"),
        Ok(stream) => assert_reset(stream, what),
    }
}

/// Fails unless the connection is refused by the kernel.
#[track_caller]
pub(crate) fn assert_refused(connected: io::Result<TcpStream>, what: &str) {
    match connected {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
        other => panic!("{what}: expected a refusal, got {other:?}"),
    }
}

/// The address in a line that a `who` server said.
pub(crate) fn seen(stream: TcpStream) -> Result<SocketAddr> {
    Ok(read_all(stream)?.parse()?)
}

/// `count`, or as many times that as `CULVERT_TEST_SCALE` says: for what can be done any number of times.
pub(crate) fn scaled(count: usize) -> usize {
    let scale = std::env::var("CULVERT_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1);
    count * std::cmp::max::<usize>(scale, 1)
}
