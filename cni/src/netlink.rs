// SPDX-License-Identifier: Apache-2.0
//! Netlink messages of nested attributes, and a socket whose answers have a deadline.
//!
//! Formats: linux/netlink.h, linux/netfilter/nfnetlink.h, linux/rtnetlink.h. All integers of the headers are in the host's
//! byte order; an attribute's payload is padded to 4 bytes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `NLM_F_REQUEST`: set on every message to the kernel.
const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`: asks for an error message in answer, with 0 for success.
pub const ACK: u16 = 0x04;
/// `NLM_F_EXCL`: fail with EEXIST where the object exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: create the object.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: add the object at the end of its list.
pub(crate) const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: asks for a list of all objects.
pub(crate) const DUMP: u16 = 0x300;

/// `NLM_F_DUMP_INTR`: a change came while the dump was made.
const DUMP_INTERRUPTED: u16 = 0x10;
/// Attempts at an interrupted dump: one takes 0.1 ms, and other writers of rules in a pod are rare.
const DUMP_TRIES: usize = 10;
// `NLMSG_ERROR`.
const MESSAGE_ERROR: u16 = 2;
// `NLMSG_DONE`.
const MESSAGE_DONE: u16 = 3;
/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK`: the bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;
/// A datagram of a dump holds at most `NLMSG_GOODSIZE`, 8 KiB on 4 KiB pages, or what the last read offered, up to 32 KiB.
const RECEIVE_BUFFER: usize = 32 << 10;
/// Size above which a batch gets a larger send buffer than the kernel's default of 208 KiB, in bytes.
const DEFAULT_SEND_BUFFER: usize = 128 << 10;
/// Largest dump that is read, in bytes: some hundred times the size of the largest policy.
const MAX_DUMP: usize = 64 << 20;

/// Time limit for an answer, in seconds. The kernel answers within the call that sends, so only a bug runs into it.
const ANSWER_WITHIN: i64 = 2;

/// A failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel answered a message with an error.
    #[error("the kernel refused message {index}: {errno}")]
    Refused {
        /// Position of the message in the batch, from 0; also 0 for the batch as a whole.
        index: usize,
        /// Error number from the kernel.
        errno: Errno,
    },
    /// A system call on the socket failed.
    #[error("netlink: {0}")]
    Socket(#[from] Errno),
    /// No answer came within two seconds.
    #[error("the kernel did not answer in time")]
    TimedOut,
    /// An answer does not parse.
    #[error("the kernel's answer cannot be read: {0}")]
    Garbled(&'static str),
}

impl NetlinkError {
    /// Returns the error number from the kernel, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::Socket(errno) => Some(*errno),
            Self::TimedOut | Self::Garbled(_) => None,
        }
    }
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        Self::Socket(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }
}

/// Messages that are sent in one piece.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: usize,
}

impl Batch {
    /// Append a message with its fixed part (`nfgenmsg`, `ifaddrmsg`) and its attributes.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        let sequence = u32::try_from(self.messages).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        attributes(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.messages += 1;
    }

    /// Returns the messages in the kernel's format.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes attributes into a message.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// Append an attribute of plain bytes.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Append a 32-bit number in network byte order, the order of all numbers of nf_tables.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Append a zero-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut terminated = Vec::with_capacity(value.len() + 1);
        terminated.extend_from_slice(value.as_bytes());
        terminated.push(0);
        self.bytes(kind, &terminated);
    }

    /// Append an attribute that contains the attributes of `inner`. The length field bounds it to 64 KiB.
    pub fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inner(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Iterate over the attributes in `bytes`, as type without flags and payload. Ends at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Returns the payload of the first attribute of type `kind`.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

/// Parse a payload that is a 32-bit number in network byte order.
pub(crate) fn be32(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// Parse a payload that is a zero-terminated string.
pub(crate) fn text(payload: &[u8]) -> Option<&str> {
    std::str::from_utf8(payload.split(|byte| *byte == 0).next()?).ok()
}

/// The messages of a dump, each as type and body.
pub(crate) type Dumped = Vec<(u16, Vec<u8>)>;

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Open a socket for `protocol`, with a receive timeout of [`ANSWER_WITHIN`].
    pub fn open(protocol: SockProtocol) -> Result<Self, NetlinkError> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_WITHIN))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd })
    }

    /// Send `batch` and wait for the answer to the message with [`ACK`], or for the first error of any message.
    pub fn transact(&self, batch: &Batch) -> Result<(), NetlinkError> {
        self.send(batch)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let received = self.receive(&mut buffer)?;
            for message in messages(&buffer[..received]) {
                let Message { kind, flags: _, sequence, body } = message?;
                if kind != MESSAGE_ERROR {
                    continue;
                }
                return match error_of(body)? {
                    Errno::UnknownErrno => Ok(()),
                    errno => Err(NetlinkError::Refused { index: sequence as usize, errno }),
                };
            }
        }
    }

    /// Send a dump request and collect its messages. A dump that a change interrupted is repeated, at most
    /// [`DUMP_TRIES`] times.
    pub(crate) fn dump(&self, request: &Batch) -> Result<Dumped, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            self.send(request)?;
            if let Some(messages) = self.receive_dump()? {
                return Ok(messages);
            }
        }
        Err(NetlinkError::Garbled("other programs change the rules faster than they can be read"))
    }

    /// Receive one dump to its end; `None` if it was interrupted.
    fn receive_dump(&self) -> Result<Option<Dumped>, NetlinkError> {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut found = Vec::new();
        let mut total = 0;
        let mut interrupted = false;
        loop {
            let received = self.receive(&mut buffer)?;
            total += received;
            if total > MAX_DUMP {
                return Err(NetlinkError::Garbled("the dump does not end"));
            }
            for message in messages(&buffer[..received]) {
                let Message { kind, flags, sequence, body } = message?;
                interrupted |= flags & DUMP_INTERRUPTED != 0;
                match kind {
                    MESSAGE_DONE => return Ok((!interrupted).then_some(found)),
                    MESSAGE_ERROR => {
                        return match error_of(body)? {
                            Errno::UnknownErrno => Ok(Some(found)),
                            errno => Err(NetlinkError::Refused { index: sequence as usize, errno }),
                        };
                    }
                    kind => found.push((kind, body.to_vec())),
                }
            }
        }
    }

    fn send(&self, batch: &Batch) -> Result<(), NetlinkError> {
        if batch.bytes.len() > DEFAULT_SEND_BUFFER {
            setsockopt(&self.fd, sockopt::SndBufForce, &(batch.bytes.len() * 2))?;
        }
        let to_kernel = NetlinkAddr::new(0, 0);
        let sent = loop {
            match sendto(self.fd.as_raw_fd(), &batch.bytes, &to_kernel, MsgFlags::empty()) {
                // Nothing of it was sent.
                Err(Errno::EINTR) => {}
                sent => break sent?,
            }
        };
        if sent == batch.bytes.len() {
            Ok(())
        } else {
            Err(NetlinkError::Garbled("a batch was sent in part"))
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, NetlinkError> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(received) => return Ok(received),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(NetlinkError::TimedOut),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Parse the error number of an `NLMSG_ERROR`; `UnknownErrno` (0) is success.
fn error_of(body: &[u8]) -> Result<Errno, NetlinkError> {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    number.map(|number| Errno::from_raw(-number)).ok_or(NetlinkError::Garbled("a short error message"))
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// Iterate over the messages of one datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, NetlinkError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = parse_message(bytes);
        bytes = match &message {
            Some((length, _)) => bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
            None => &[],
        };
        Some(message.map(|(_, message)| message).ok_or(NetlinkError::Garbled("a message that does not fit")))
    })
}

fn parse_message(bytes: &[u8]) -> Option<(usize, Message<'_>)> {
    let header = bytes.get(..HEADER)?;
    let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
    let flags = u16::from_ne_bytes(header[6..8].try_into().ok()?);
    let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
    Some((length, Message { kind, flags, sequence, body: bytes.get(HEADER..length)? }))
}
