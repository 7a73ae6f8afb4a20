// SPDX-License-Identifier: Apache-2.0
//! Netlink by hand: messages of nested attributes, one socket, answers with a deadline.
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

/// `NLM_F_REQUEST`: set on everything that we send.
const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`: the kernel answers with an error message, 0 for success.
pub const ACK: u16 = 0x04;
/// `NLM_F_EXCL`: fail with EEXIST where the object exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: create the object.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: at the end of a list.
pub const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: list all objects.
pub const DUMP: u16 = 0x300;

/// `NLM_F_DUMP_INTR`: something changed while the dump was made.
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often an interrupted dump is asked for: ours take 0.1 ms, and few write rules into a pod at all.
const DUMP_TRIES: usize = 10;
/// `NLMSG_ERROR`.
const MESSAGE_ERROR: u16 = 2;
/// `NLMSG_DONE`.
const MESSAGE_DONE: u16 = 3;
/// The size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's type that are not flags (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;
/// A datagram of a dump holds at most `NLMSG_GOODSIZE`, 8 KiB on 4 KiB pages, or what the last read offered, up to 32 KiB.
const RECEIVE_BUFFER: usize = 32 << 10;
/// Above this a batch needs a larger send buffer than the kernel's default of 208 KiB.
const DEFAULT_SEND_BUFFER: usize = 128 << 10;
/// The largest dump that we read, in bytes: some hundred times of what the largest policy needs.
const MAX_DUMP: usize = 64 << 20;

/// How long an answer is awaited, in seconds. The kernel answers in the call that sends, so this is for a bug in one of us.
const ANSWER_WITHIN: i64 = 2;

/// What went wrong in talking to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a message.
    #[error("the kernel refused message {index}: {errno}")]
    Refused {
        /// Which message of the batch, counted from 0; 0 also for the batch as a whole.
        index: usize,
        /// Why.
        errno: Errno,
    },
    /// The socket failed.
    #[error("netlink: {0}")]
    Socket(#[from] Errno),
    /// The kernel did not answer in time.
    #[error("the kernel did not answer in time")]
    TimedOut,
    /// An answer that does not parse.
    #[error("the kernel's answer cannot be read: {0}")]
    Garbled(&'static str),
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
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

/// Messages to be sent in one piece.
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

    /// How many messages there are.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// The messages as they go to the kernel.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes attributes into a message.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// An attribute of plain bytes.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// An attribute that holds a 32-bit number in network byte order, as all of nf_tables' do.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds a zero-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut terminated = Vec::with_capacity(value.len() + 1);
        terminated.extend_from_slice(value.as_bytes());
        terminated.push(0);
        self.bytes(kind, &terminated);
    }

    /// An attribute that holds attributes. The length field bounds one to 64 KiB.
    pub fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inner(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Iterate over the attributes in `bytes`: type without flags, payload. Ends at the first that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The payload of the first attribute of type `kind`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

/// A payload that is a 32-bit number in network byte order.
pub fn be32(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// A payload that is a zero-terminated string.
pub fn text(payload: &[u8]) -> Option<&str> {
    std::str::from_utf8(payload.split(|byte| *byte == 0).next()?).ok()
}

/// What a dump holds: the type and the body of each message.
pub type Dumped = Vec<(u16, Vec<u8>)>;

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Open one for `protocol`; no answer is awaited for longer than [`ANSWER_WITHIN`].
    pub fn open(protocol: SockProtocol) -> Result<Self, NetlinkError> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_WITHIN))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd })
    }

    /// Send `batch` and wait for the acknowledgement of the message that carries [`ACK`]; an error of any ends it.
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

    /// Send a dump request and collect each message (type, body). A dump that somebody's change interrupted is asked for
    /// again, a few times.
    pub fn dump(&self, request: &Batch) -> Result<Dumped, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            self.send(request)?;
            if let Some(messages) = self.receive_dump()? {
                return Ok(messages);
            }
        }
        Err(NetlinkError::Garbled("others change the rules faster than they can be read"))
    }

    /// One dump to its end; `None` if it was interrupted.
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
        let sent = sendto(self.fd.as_raw_fd(), &batch.bytes, &to_kernel, MsgFlags::empty())?;
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

/// The error number in an `NLMSG_ERROR`; `UnknownErrno` (0) is success.
fn error_of(body: &[u8]) -> Result<Errno, NetlinkError> {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    number.map(|number| Errno::from_raw(-number)).ok_or(NetlinkError::Garbled("a short error message"))
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of one datagram.
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
