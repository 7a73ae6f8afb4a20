//! A synchronous netlink client: what the lab asks of the kernel instead of starting `ip` or `nft`.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// One answer of the kernel: at most 32 KiB for a dump, says linux/netlink.h.
const BUFFER: usize = 64 * 1024;

/// The kernel answers at once; this only keeps a broken exchange from hanging a test.
const DEADLINE_SECONDS: i64 = 5;

/// The number of times that a listing may be interrupted by a change of what it lists.
const DUMP_ATTEMPTS: usize = 20;

/// A netlink socket of the namespace in which the calling thread is.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open(protocol: SockProtocol) -> Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .context("cannot open a netlink socket")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(DEADLINE_SECONDS, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and waits for the kernel's acknowledgement.
    pub(crate) fn request<M>(&mut self, message: M, flags: u16) -> Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).map(drop)
    }

    /// Asks for everything of a kind, again if it changed meanwhile.
    pub(crate) fn dump<M>(&mut self, message: M) -> Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)? {
                return Ok(found);
            }
        }
        bail!("what was to be listed does not stop to change")
    }

    /// `None`: the answer was interrupted by a change.
    fn exchange<M>(&mut self, message: M, flags: u16) -> Result<Option<Vec<M>>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        sendto(self.socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .context("cannot send a netlink request")?;

        let (mut found, mut interrupted) = (Vec::new(), false);
        let mut waiting: VecDeque<NetlinkMessage<M>> = VecDeque::new();
        loop {
            let Some(answer) = waiting.pop_front() else {
                waiting.extend(self.receive()?);
                continue;
            };
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::Error(e) => match e.code {
                    None => return Ok(Some(found)),
                    Some(code) => bail!(io::Error::from_raw_os_error(code.get().abs())),
                },
                NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(found)),
                NetlinkPayload::InnerMessage(inner) => found.push(inner),
                _ => {}
            }
        }
    }

    fn receive<M>(&self) -> Result<Vec<NetlinkMessage<M>>>
    where
        M: NetlinkDeserializable + Debug,
    {
        let mut buffer = vec![0; BUFFER];
        let length =
            recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("no answer by netlink")?;
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).context("cannot read a netlink answer")?;
            // Messages are padded to four bytes.
            let step = (message.header.length as usize).next_multiple_of(4);
            messages.push(message);
            rest = rest.get(step..).unwrap_or_default();
        }
        Ok(messages)
    }
}
