// SPDX-License-Identifier: Apache-2.0
//! The TCP sockets of the pod that keep outbound open at the end, from `/proc/net/tcp` and `tcp6`. A row counts
//!
//! - when a process of another user holds the socket, listening or connected: the application has not ended, and may
//!   still have something to send;
//! - when it is a client's connection to a port on which outbound accepts. An application may connect, write, close and
//!   end while its connection is still in the kernel's queue.
//!
//! A row with inode 0 belongs to no process, and its uid 0 to no user: TIME_WAIT, a half-open connection, or what a process
//! has closed and the kernel still sends.

use crate::connection::proxy::Proxy;
use crate::net::addrs::Direction;
use nix::unistd::geteuid;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// Both tables of this process's network namespace. The second is missing where the kernel has no IPv6.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// Shortest pause between two looks: a pod ends that much later than it could.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks take a tenth of this thread's time at most. The kernel walks a hash table of the whole machine, which takes 0.6 ms
/// even where a pod has a single socket, and 20,000 connections in TIME_WAIT are another 20 ms.
const PAUSE_PER_LOOK: u32 = 9;
/// Bytes of one reading: the kernel gives a page at a time.
const BUFFER: usize = 4096;
/// States of `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT`: the sidecar has not closed its end.
const OPEN: [u8; 2] = [0x01, 0x08];

/// A socket that keeps outbound open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// A process of this user holds a socket with this local port.
    User { uid: u32, port: u16 },
    /// A client of the listener with this port has not been served to its end.
    Client { port: u16 },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { uid, port } => write!(f, "uid {uid} holds a TCP socket with local port {port}"),
            Self::Client { port } => write!(f, "a client of port {port} is not served to its end"),
        }
    }
}

/// Returns once no connection is open and no other user's process holds a TCP socket.
pub(super) async fn gone(proxy: &Proxy) {
    let mut told = false;
    loop {
        proxy.table.empty().await;
        let clients = outbound_ports(proxy);
        if clients.is_empty() {
            // Nothing serves the application anyway.
            return;
        }
        let begun = Instant::now();
        match first(&TABLES.map(Path::new), geteuid().as_raw(), &clients).await {
            // One may have come and been accepted in the meantime.
            Ok(None) if proxy.table.is_empty() => return,
            Ok(None) => continue,
            Ok(Some(holder)) if told => tracing::debug!(%holder, "outbound serves on"),
            Ok(Some(holder)) => tracing::info!(%holder, "outbound serves on"),
            Err(_) if told => {}
            // To end early would cut an application off; to end late costs time, and no more than --drain-time.
            Err(error) => {
                tracing::warn!(%error, "cannot see the pod's sockets: outbound serves until --drain-time is over")
            }
        }
        told = true;
        tokio::time::sleep(LOOK_EVERY.max(begun.elapsed() * PAUSE_PER_LOOK)).await;
    }
}

/// Ports on which outbound accepts.
fn outbound_ports(proxy: &Proxy) -> Vec<u16> {
    let running = proxy.running.load();
    let bound = running.plan.listeners.iter().filter(|l| l.binds && l.direction == Direction::Outbound);
    let redirected = Some(proxy.config.outbound_port).filter(|port| *port != 0);
    bound.map(|listener| listener.address.port()).chain(redirected).collect()
}

/// Returns the first row of the tables that counts.
async fn first(tables: &[&Path], own: u32, clients: &[u16]) -> io::Result<Option<Holder>> {
    for (index, table) in tables.iter().enumerate() {
        let file = match File::open(table) {
            Err(error) if index > 0 && error.kind() == ErrorKind::NotFound => continue,
            opened => opened.map_err(|error| named(table, &error))?,
        };
        let found = first_row(file, |row| row.holder(own, clients)).await;
        if let Some(holder) = found.map_err(|error| named(table, &error))? {
            return Ok(Some(holder));
        }
    }
    Ok(None)
}

fn named(table: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", table.display()))
}

/// Reads rows until one is wanted. The table may have hundreds of thousands, so a reading holds one buffer of them, and the
/// pages of this thread are served in between.
async fn first_row<T>(mut table: impl Read, wanted: impl Fn(Row) -> Option<T>) -> io::Result<Option<T>> {
    let (mut buffer, mut filled, mut header) = (vec![0; BUFFER], 0, true);
    loop {
        let read = match table.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        filled += read;
        let whole = buffer[..filled].iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        for line in buffer[..whole].split_inclusive(|&byte| byte == b'\n') {
            if std::mem::take(&mut header) {
                continue;
            }
            if let Some(found) = wanted(Row::parse(line).ok_or(ErrorKind::InvalidData)?) {
                return Ok(Some(found));
            }
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if read == 0 {
            return if filled == 0 { Ok(None) } else { Err(ErrorKind::InvalidData.into()) };
        }
        tokio::task::yield_now().await;
    }
}

/// The parts of a row that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    port: u16,
    state: u8,
    uid: u32,
    inode: u64,
}

impl Row {
    /// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let (_, port) = fields.nth(1)?.split_once(':')?;
        let state = fields.nth(1)?;
        Some(Self {
            port: u16::from_str_radix(port, 16).ok()?,
            state: u8::from_str_radix(state, 16).ok()?,
            uid: fields.nth(3)?.parse().ok()?,
            inode: fields.nth(1)?.parse().ok()?,
        })
    }

    fn holder(self, own: u32, clients: &[u16]) -> Option<Holder> {
        let Self { port, state, uid, inode } = self;
        if inode != 0 && uid != own {
            Some(Holder::User { uid, port })
        } else if OPEN.contains(&state) && clients.contains(&port) {
            Some(Holder::Client { port })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fmt::Write as _;
    use std::io::Cursor;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n";
    const OWN: u32 = 5678;

    fn row(local: &str, state: &str, uid: u32, inode: u64) -> String {
        format!(
            "   0: {local} 0A4D0002:0050 {state} 00000000:00000000 00:00000000 00000000 {uid:5}        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
        )
    }

    #[test]
    fn a_row_counts_when_a_user_or_a_client_stands_behind_it() {
        let user = |uid, port| Some(Holder::User { uid, port });
        let client = Some(Holder::Client { port: 15001 });
        let v6 = "0000000000000000FFFF00000100007F";
        for (name, local, state, uid, inode, counts) in [
            ("the application listens", "00000000:1F90", "0A", 1000, 7, user(1000, 8080)),
            ("so does root", "00000000:1F90", "0A", 0, 7, user(0, 8080)),
            ("a user that this namespace does not map", "00000000:1F90", "0A", 65534, 7, user(65534, 8080)),
            ("in the other table", &format!("{v6}:1F90"), "0A", 1000, 7, user(1000, 8080)),
            ("a connection", "02004D0A:C350", "01", 1000, 7, user(1000, 50000)),
            ("one that is being made", "02004D0A:C350", "02", 1000, 7, user(1000, 50000)),
            ("one that the peer has closed", "02004D0A:C350", "08", 1000, 7, user(1000, 50000)),
            ("TIME_WAIT", "02004D0A:C350", "06", 0, 0, None),
            ("closed by its process, and sent on by the kernel", "02004D0A:C350", "04", 0, 0, None),
            ("half open, to a listener", "02004D0A:1F90", "03", 1000, 0, None),
            ("our own listener", "00000000:3A99", "0A", OWN, 7, None),
            ("our own connection", "02004D0A:C350", "01", OWN, 7, None),
            ("a client in the queue", &format!("{v6}:3A99"), "01", 0, 0, client),
            ("one that has closed its end", &format!("{v6}:3A99"), "08", 0, 0, client),
            ("one that was accepted", &format!("{v6}:3A99"), "08", OWN, 7, client),
            ("one that was served", &format!("{v6}:3A99"), "06", 0, 0, None),
            ("a peer in the queue of another listener of ours", "02004D0A:3AAC", "01", 0, 0, None),
        ] {
            let row = Row::parse(row(local, state, uid, inode).as_bytes()).expect(name);
            assert_eq!(row.holder(OWN, &[15001]), counts, "{name}");
        }
    }

    /// Gives as many bytes as asked for, in pieces that the kernel would not cut better.
    struct Pieces(Cursor<String>, usize);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    #[tokio::test]
    async fn rows_are_read_whole_however_they_are_cut_and_no_further_than_needed() {
        let mut text = HEADER.to_owned();
        for port in 0..1000 {
            text.push_str(&row(&format!("00000000:{port:04X}"), "0A", 1000, 7));
        }
        for piece in [1, 7, 149, 150, 4096, usize::MAX] {
            let seen = Cell::new(0);
            let table = Pieces(Cursor::new(text.clone()), piece);
            let found = first_row(table, |row| {
                assert_eq!(row.port, seen.replace(seen.get() + 1), "in pieces of {piece}");
                (row.port == 800).then_some(row)
            });
            assert!(found.await.unwrap().is_some(), "in pieces of {piece}");
            assert_eq!(seen.get(), 801, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_table_of_another_form_is_an_error_and_never_an_end() {
        let mut long = HEADER.to_owned();
        write!(long, "{}", "x".repeat(2 * BUFFER)).unwrap();
        let cut = &row("00000000:1F90", "0A", OWN, 7)[..40];
        for (name, text) in [
            ("another form", format!("{HEADER}   0: here there\n")),
            ("a line without end", long),
            ("a line that is cut", format!("{HEADER}{cut}")),
        ] {
            let found = first_row(Cursor::new(text), |_| None::<()>).await;
            assert_eq!(found.unwrap_err().kind(), ErrorKind::InvalidData, "{name}");
        }
    }

    #[tokio::test]
    async fn without_ipv6_the_second_table_is_missing_and_the_first_never_is() {
        let folder = tempfile::tempdir().unwrap();
        let [tcp, tcp6] = ["tcp", "tcp6"].map(|name| folder.path().join(name));
        let tables = [tcp.as_path(), tcp6.as_path()];
        let look = || first(&tables, OWN, &[]);
        let error = look().await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: No such file", tcp.display())), "{error}");
        std::fs::write(&tcp, HEADER).unwrap();
        assert_eq!(look().await.unwrap(), None);
        std::fs::write(&tcp6, format!("{HEADER}{}", row("00000000:1F90", "0A", 1000, 7))).unwrap();
        assert_eq!(look().await.unwrap(), Some(Holder::User { uid: 1000, port: 8080 }));
    }
}
