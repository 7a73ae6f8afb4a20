//! A page in a browser.

use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::chown;

use anyhow::{Result, ensure};
use culvert_tests::server::Behaviour;
use culvert_tests::{Family, eventually};

use super::origin::Asked;
use super::{finishes, program};
use crate::documents::SOON;
use crate::http_ports::{Way, World};
use crate::support::APP;

/// Scripts of the page, by as many connections as the browser likes.
const SCRIPTS: usize = 60;

/// A page that adds what its scripts say, and asks once more with a body.
fn page() -> String {
    let scripts: String =
        (1..=SCRIPTS).map(|number| format!("<script src=\"/{number}.js\"></script>")).collect();
    format!(
        "<!doctype html><script>let sum = 0;</script>{scripts}<script>
const request = new XMLHttpRequest();
request.open('POST', '/post', false);
request.send('b'.repeat(100000));
document.write(`the sum is ${{sum}}, the answer ${{request.responseText}}`);
</script>"
    )
}

fn site() -> impl Behaviour {
    |stream: TcpStream| {
        stream.set_nodelay(true)?;
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        while let Some(mut asked) = Asked::head(&mut requests)? {
            asked.read_body(&mut requests)?;
            let path = asked.first.split(' ').nth(1).unwrap_or_default();
            let number = path.strip_prefix('/').and_then(|path| path.strip_suffix(".js"));
            let (kind, body) = match (path, number) {
                ("/", _) => ("text/html", page()),
                (_, Some(number)) => ("text/javascript", format!("sum += {number};")),
                _ => ("text/plain", asked.body.len().to_string()),
            };
            write!(
                answers,
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        Ok(())
    }
}

/// Waits until the kernel has checked all addresses of the client's namespace: a browser drops its requests when one changes.
fn settles(world: &World, way: Way) -> Result<()> {
    const TENTATIVE: u32 = 0x40;
    let is_settled = |line: &str| {
        let flags = line.split_whitespace().nth(4).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        flags.is_some_and(|flags| flags & TENTATIVE == 0)
    };
    let addresses = || world.client(way).run(|| fs::read_to_string("/proc/thread-self/net/if_inet6"));
    eventually!(addresses().is_ok_and(|all| all.lines().all(is_settled)), SOON);
    Ok(())
}

/// The page at an address as a browser has it once its scripts have run.
pub(crate) fn dom(world: &World, way: Way, url: &str, more: &[&str]) -> Result<String> {
    settles(world, way)?;
    let profile = world.lab.folder().join("profile");
    fs::create_dir_all(&profile)?;
    chown(&profile, Some(APP), Some(APP))?;
    let home = format!("HOME={}", profile.display());
    let profile = format!("--user-data-dir={}", profile.display());
    // Debian's chromium is a script, which cannot be executed by its file alone.
    let browser = [
        &home,
        "PATH=/usr/bin:/bin",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--dump-dom",
        &profile,
    ];
    finishes(world.client(way), &program("env")?, &[&browser[..], more, &[url]].concat())
}

#[test]
fn a_browser_gets_a_page_with_all_its_scripts() -> Result<()> {
    let world = World::of(Family::V4)?;
    let _sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let server = world.serve(way, site())?;
        let said = dom(&world, way, &world.url(way), &[])?;
        let expected = format!("the sum is {}, the answer 100000", SCRIPTS * (SCRIPTS + 1) / 2);
        ensure!(said.contains(&expected), "{way:?}: {said}");
        ensure!(server.accepted() < SCRIPTS, "{way:?}: {} connections, none was kept", server.accepted());
    }
    Ok(())
}
