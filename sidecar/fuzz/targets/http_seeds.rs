// SPDX-License-Identifier: Apache-2.0
//! Writes seeds of the targets for HTTP into a folder each: the connections of culvert-http's table tests.
//!
//! `http_seeds FOLDER`. They are not kept beside the targets, where they would grow old.

#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "../../http/tests/messages/scripts/mod.rs"]
mod scripts;
#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "http/spelling.rs"]
mod spelling;

use scripts::{Event, cases, vectors};
use std::path::Path;
use std::{env, fs, io};

/// Longest seed: `run` lets libFuzzer make none that is longer.
const MAX: usize = 4096;

fn write(folder: &Path, target: &str, name: &str, seed: &[u8]) -> io::Result<()> {
    if seed.len() > MAX {
        return Ok(());
    }
    let letters = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name.chars().map(letters).collect::<String>()), seed)
}

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: http_seeds FOLDER"))?;
    let folder = Path::new(&folder);
    const EDITED: &[u8] = b"cGET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, x-kuma-tags\r\nUpgrade: h2c, b\r\n\
        HTTP2-Settings: AAMAAABk\r\nX-Kuma-Tags: &a=b&\r\nX_Forwarded_Client_Cert: URI=c\r\n\r\n";
    write(folder, "http_heads", "edited", EDITED)?;
    let cases = cases::all().into_iter().map(|case| (case.name, case.events));
    let vectors = vectors::all().into_iter().map(|vector| (vector.name, vector.events));
    for (name, events) in cases.chain(vectors) {
        write(folder, "http_exchange", name, &spelling::spell(&events))?;
        for (n, event) in events.iter().enumerate() {
            let name = format!("{name} {n}");
            match event {
                Event::Client(bytes) => {
                    write(folder, "http_heads", &name, &[b"c", bytes.as_slice()].concat())?;
                    if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                        write(folder, "http_chunks", &name, &[&[0], &bytes[end + 4..]].concat())?;
                    }
                }
                Event::Server(bytes) => {
                    write(folder, "http_heads", &name, &[b"g", bytes.as_slice()].concat())?
                }
                Event::ClientFin | Event::ServerFin => {}
            }
        }
    }
    Ok(())
}
