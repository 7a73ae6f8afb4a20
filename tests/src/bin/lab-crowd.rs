//! A crowd of connections, more than one process with two ends of each could hold: `lab-crowd serve ADDRESS` echoes;
//! `lab-crowd visit ADDRESS HELD REPLACED SEED` opens, replaces and closes, and checks every byte that comes back.
//!
//! A visitor says what it has done on standard output, and goes on to the next when it gets SIGUSR1: `up` (HELD
//! connections are open, each said something and heard it back), `replaced` (REPLACED of them were ended, every third
//! by a reset, and opened again), `closed` (all were ended). Anything lost, changed or refused ends it with 1.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::Payload;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Connects under way at a time: fewer than any backlog on the way.
const AT_A_TIME: usize = 128;
/// The longest that one connection says.
const MOST_BYTES: usize = 16 * 1024;
/// The longest that one step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("no event loop").and_then(|runtime| {
        raise_open_files()?;
        match words[..] {
            ["serve", at] => runtime.block_on(serve(at.parse()?)),
            ["visit", at, held, replaced, seed] => {
                runtime.block_on(visit(at.parse()?, held.parse()?, replaced.parse()?, seed.parse()?))
            }
            _ => bail!("usage: lab-crowd serve ADDRESS | visit ADDRESS HELD REPLACED SEED"),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-crowd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn raise_open_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

async fn serve(at: SocketAddr) -> Result<()> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    let listener: TcpListener = socket.listen(4096)?;
    println!("serving");
    loop {
        let (mut stream, _) = listener.accept().await.context("cannot accept")?;
        tokio::spawn(async move {
            // Small: thousands of these are idle at a time, and this program's memory is not what is measured.
            let mut buffer = [0; 2048];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn visit(at: SocketAddr, held: usize, replaced: usize, seed: u64) -> Result<()> {
    let mut next = signal(SignalKind::user_defined1())?;
    let mut open = Vec::with_capacity(held);
    come(at, 0..held as u64, seed, &mut open).await?;
    println!("up");
    next.recv().await;

    let mut random = seed | 1;
    let mut number = held as u64;
    let mut left = replaced;
    while left > 0 {
        let now = left.min(AT_A_TIME);
        let mut leaving = JoinSet::new();
        for one in 0..now {
            // xorshift64: any connection, old or new.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let stream = open.swap_remove((random % open.len() as u64) as usize);
            leaving.spawn(leave(stream, one % 3 == 0));
        }
        all(leaving).await?;
        come(at, number..number + now as u64, seed, &mut open).await?;
        number += now as u64;
        left -= now;
    }
    println!("replaced");
    next.recv().await;

    while !open.is_empty() {
        let mut leaving = JoinSet::new();
        for stream in open.drain(open.len().saturating_sub(AT_A_TIME)..) {
            leaving.spawn(leave(stream, false));
        }
        all(leaving).await?;
    }
    println!("closed");
    next.recv().await;
    Ok(())
}

/// Opens connections, each of which says what follows from its number and hears it back.
async fn come(
    at: SocketAddr,
    numbers: std::ops::Range<u64>,
    seed: u64,
    open: &mut Vec<TcpStream>,
) -> Result<()> {
    let numbers: Vec<u64> = numbers.collect();
    for some in numbers.chunks(AT_A_TIME) {
        let mut coming = JoinSet::new();
        for &number in some {
            coming.spawn(async move {
                let came = tokio::time::timeout(PATIENCE, say_and_hear(at, number, seed)).await;
                came.map_err(anyhow::Error::from).flatten().with_context(|| format!("connection {number}"))
            });
        }
        while let Some(came) = coming.join_next().await {
            open.push(came??);
        }
    }
    Ok(())
}

async fn say_and_hear(at: SocketAddr, number: u64, seed: u64) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await.context("cannot connect")?;
    let seed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let payload = Payload { bytes: 1 + (seed >> 8) as usize % MOST_BYTES, seed };
    let mut said = Vec::with_capacity(payload.bytes);
    payload.write_to(&mut said)?;
    stream.write_all(&said).await.context("cannot send")?;
    let mut heard = vec![0; said.len()];
    stream.read_exact(&mut heard).await.context("not all came back")?;
    ensure!(heard == said, "other bytes came back than were sent");
    Ok(stream)
}

/// Ends a connection: by a reset, or in order, and then nothing more may come.
async fn leave(mut stream: TcpStream, by_reset: bool) -> Result<()> {
    if by_reset {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        return Ok(());
    }
    stream.shutdown().await?;
    let rest = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 16])).await?;
    ensure!(rest.context("ended by an error")? == 0, "more came than was asked for");
    Ok(())
}

async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
