// SPDX-License-Identifier: Apache-2.0
//! Files that load in Go's JSON, and so in every runtime, get the entry, and each byte of theirs comes back.

use super::*;

#[test]
fn a_file_with_bytes_that_are_no_text_and_keys_in_another_case_gets_the_entry() -> Result<()> {
    let list = |plugin: &[u8]| {
        [b"{\"name\":\"net\",\"cniVersion\":\"0.3.1\",\"plugins\":[".as_slice(), plugin, b"]}"].concat()
    };
    for (what, name, bytes) in [
        ("a byte of Latin-1", NAME, list(b"{\"type\":\"bridge\",\"note\":\"Stra\xdfe\"}")),
        ("half a character", NAME, list(b"{\"type\":\"bridge\",\"note\":\"\xe2\x82\"}")),
        ("half a pair", NAME, list(b"{\"type\":\"bridge\",\"note\":\"\\ud800\"}")),
        ("a key in another case", NAME, list(b"{\"Type\":\"bridge\"}")),
        (
            "both in a single plugin",
            "10-net.conf",
            b"{\"Name\":\"net\",\"CNIVersion\":\"0.3.1\",\"Type\":\"bridge\",\"note\":\"Stra\xdfe \\udfff\"}".to_vec(),
        ),
        (
            "a version to come",
            NAME,
            b"{\"name\":\"net\",\"cniVersion\":\"1.0.0\",\"cniVersions\":[\"1.0.0\",\"9.0.0\"],\"plugins\":[{\"type\":\"bridge\"}]}"
                .to_vec(),
        ),
    ] {
        let node = Mounted::new()?;
        fs::write(node.configuration(name), &bytes)?;
        let before = node.kept(CONFIGURATIONS)?;
        let agent = node.agent(&[])?.ready().context(what)?;
        let used = if name == NAME { NAME } else { "10-net.0-culvert.conflist" };
        let with = fs::read(node.configuration(used))?;
        ensure!(String::from_utf8_lossy(&with).contains("\"culvert-cni\""), "{what}");
        let writes = agent.metric("culvert_agent_entry_writes_total")?;
        // A neighbour writes it anew.
        fs::write(node.configuration(name), &bytes)?;
        eventually!(fs::read(node.configuration(used)).is_ok_and(|now| now == with), HEALS_WITHIN);
        eventually!(agent.get("/ready").is_ok_and(|ready| ready.status == 200), HEALS_WITHIN);
        let more = agent.metric("culvert_agent_entry_writes_total")? - writes;
        ensure!(more <= 1.0, "{what}: written {more} times\n{}", agent.log());
        let entry = looks::found(&node, "entry")?;
        ensure!(entry.contains(used), "{what}: {entry}");
        agent.terminate()?;
        node.uninstall()?;
        assert_eq!(node.kept(CONFIGURATIONS)?, before, "{what}");
    }
    Ok(())
}
