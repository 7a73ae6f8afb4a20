//! The servers: an application in the pod that speaks plainly, and a member outside of it that speaks TLS.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;
use culvert_tests::Host;
use culvert_tests::tls::TlsServer;
use culvert_tests::tls::authority::Credentials;
use rustls::HandshakeKind;

/// The service at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Port {
    /// Small answers; every handshake is a full one.
    Small = 8080,
    /// Bytes to the server.
    Up = 8081,
    /// Bytes to the client.
    Down = 8082,
    /// Small answers; sessions are resumed.
    Again = 8083,
}

impl Port {
    pub(crate) const ALL: [Self; 4] = [Self::Small, Self::Up, Self::Down, Self::Again];

    fn serve(self, stream: &mut (impl Read + Write)) {
        match self {
            Self::Small | Self::Again => {
                let mut asked = [0; 64];
                while stream.read_exact(&mut asked).is_ok() && stream.write_all(&[b'a'; 128]).is_ok() {}
            }
            Self::Up => {
                let mut chunk = vec![0; 256 * 1024];
                while matches!(stream.read(&mut chunk), Ok(1..)) {}
            }
            Self::Down => {
                let chunk = vec![b'x'; 128 * 1024];
                while stream.write_all(&chunk).is_ok() {}
            }
        }
    }
}

/// Sessions that the member's servers resumed.
pub(crate) static RESUMED: AtomicU64 = AtomicU64::new(0);

/// Starts them; they run until the process ends.
pub(crate) fn start(pod: &Host, peer: &Host, member: &Credentials) -> Result<()> {
    for port in Port::ALL {
        accept(pod.as_uid(1000).listen(("0.0.0.0", port as u16))?, move |mut stream| port.serve(&mut stream));
        // No tickets, no sessions to resume.
        let server = TlsServer::new(member, if port == Port::Again { 1 } else { 0 })?;
        accept(peer.as_root().listen(("0.0.0.0", port as u16))?, move |stream| {
            let Ok(mut stream) = server.over(stream) else { return };
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
            if stream.conn.handshake_kind() == Some(HandshakeKind::Resumed) {
                RESUMED.fetch_add(1, Ordering::Relaxed);
            }
            port.serve(&mut stream);
        });
    }
    Ok(())
}

fn accept(listener: TcpListener, with: impl Fn(TcpStream) + Clone + Send + 'static) {
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nodelay(true);
            let with = with.clone();
            thread::spawn(move || with(stream));
        }
    });
}
