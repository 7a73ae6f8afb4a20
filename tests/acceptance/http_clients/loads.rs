//! Clients that put a load on a server: none of their requests fails.

use anyhow::{Context, Result, ensure};

use super::origin::{http_1, http_2};
use super::{everywhere, finishes, program};

/// The number behind a label.
fn number(said: &str, label: &str) -> Result<u64> {
    let rest = said.lines().find_map(|line| line.trim().strip_prefix(label));
    let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {label:?} in {said}"))
}

/// It speaks HTTP/1.0.
#[test]
fn ab_keeps_its_connections() -> Result<()> {
    let ab = program("ab")?;
    everywhere(|world, way| {
        let server = world.serve(way, http_1())?;
        let said = finishes(world.client(way), &ab, &["-q", "-k", "-n", "2000", "-c", "8", &world.url(way)])?;
        for (label, expected) in
            [("Complete requests:", 2000), ("Failed requests:", 0), ("Keep-Alive requests:", 2000)]
        {
            ensure!(number(&said, label)? == expected, "{label} {said}");
        }
        ensure!(!said.contains("Non-2xx"), "{said}");
        ensure!(server.accepted() <= 16, "{} connections", server.accepted());
        Ok(())
    })
}

#[test]
fn wrk_gets_all_answers_on_kept_connections_and_on_new_ones() -> Result<()> {
    let wrk = program("wrk")?;
    everywhere(|world, way| {
        let _server = world.serve(way, http_1())?;
        let url = world.url(way);
        for arguments in [&[][..], &["-H", "Connection: close"]] {
            let said = finishes(
                world.client(way),
                &wrk,
                &[&["-t1", "-c8", "-d1s", "--timeout", "30s"], arguments, &[&url]].concat(),
            )?;
            ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{arguments:?}: {said}");
            let requests: u64 = said
                .split(" requests in")
                .next()
                .and_then(|rest| rest.split_whitespace().last()?.parse().ok())
                .context("no count")?;
            ensure!(requests > 50, "{arguments:?}: {said}");
        }
        Ok(())
    })
}

#[test]
fn h2load_loses_no_stream_of_http_2_and_no_request_of_http_1() -> Result<()> {
    let h2load = program("h2load")?;
    everywhere(|world, way| {
        // Of an address of IPv6 it makes an authority without brackets, which no server takes.
        let to = format!("--connect-to={}", way.called(world.family));
        let all =
            "requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout";
        let server = world.serve(way, http_2())?;
        let said =
            finishes(world.client(way), &h2load, &["-t1", "-n1000", "-c4", "-m10", &to, "http://app/"])?;
        ensure!(said.contains(all) && said.contains("h2c"), "{said}");
        drop(server);
        let _server = world.serve(way, http_1())?;
        let said =
            finishes(world.client(way), &h2load, &["--h1", "-t1", "-n1000", "-c4", &to, "http://app/"])?;
        ensure!(said.contains(all) && said.contains("http/1.1"), "{said}");
        Ok(())
    })
}

#[test]
fn nghttp_gets_an_answer_of_http_2() -> Result<()> {
    let nghttp = program("nghttp")?;
    everywhere(|world, way| {
        let _server = world.serve(way, http_2())?;
        let said = finishes(world.client(way), &nghttp, &["-v", "-t", "30", &world.url(way)])?;
        ensure!(said.contains(":status: 200") && said.contains("ok 0"), "{said}");
        Ok(())
    })
}
