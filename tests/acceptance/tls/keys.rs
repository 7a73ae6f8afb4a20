//! Identities as openssl writes them: every kind of key in each spelling of its file, chains, bundles; and files that stand
//! for half of a rotation.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::eventually;
use serde_json::Value;

use super::{WAITS, World, talks};

/// The files are looked at each second, and what is bad is believed at the second look.
const SOON: Duration = Duration::from_secs(20);

/// Two authorities, one of which signs by way of an intermediate; a folder with tls.crt and tls.key for each kind of key.
const MAKE: &str = r#"
authority() {
  openssl req -x509 -newkey "$2" $3 -nodes -keyout "$1.key" -out "$1.crt" -subj "/CN=$1" -days 2 \
    -addext keyUsage=critical,keyCertSign
}
authority elliptic ec '-pkeyopt ec_paramgen_curve:P-256'
authority rivest rsa:2048 ''
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout between.key -out between.csr -subj /CN=between
printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n' > between.ext
openssl x509 -req -in between.csr -CA rivest.crt -CAkey rivest.key -set_serial 1 -days 2 -extfile between.ext -out between.crt
printf 'basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:spiffe://default/server,DNS:server.test\n' > leaf.ext
serial=100
leaf() {
  mkdir "$1"
  serial=$((serial + 1))
  openssl genpkey $3 -out "$1/tls.key"
  openssl req -new -key "$1/tls.key" -subj /CN=leaf -out leaf.csr
  openssl x509 -req -in leaf.csr -CA "$2.crt" -CAkey "$2.key" -set_serial $serial -days 1 -extfile leaf.ext -out "$1/tls.crt"
}
EC='-algorithm EC -pkeyopt ec_paramgen_curve:P-256'
RSA='-algorithm RSA -pkeyopt rsa_keygen_bits:2048'
leaf p256-sec1 elliptic "$EC"
openssl ec -in p256-sec1/tls.key -out p256-sec1/tls.key
leaf p384-pkcs8 rivest '-algorithm EC -pkeyopt ec_paramgen_curve:P-384'
leaf ed25519-pkcs8 elliptic '-algorithm ed25519'
leaf rsa-pkcs1 elliptic "$RSA"
openssl rsa -traditional -in rsa-pkcs1/tls.key -out rsa-pkcs1/tls.key
leaf by-way-of-an-intermediate between "$EC"
cat between.crt >> by-way-of-an-intermediate/tls.crt
"#;

const KINDS: [(&str, &str); 5] = [
    ("p256-sec1", "BEGIN EC PRIVATE KEY"),
    ("p384-pkcs8", "BEGIN PRIVATE KEY"),
    ("ed25519-pkcs8", "BEGIN PRIVATE KEY"),
    ("rsa-pkcs1", "BEGIN RSA PRIVATE KEY"),
    ("by-way-of-an-intermediate", "BEGIN PRIVATE KEY"),
];

fn put(from: &Path, into: &Path, name: &str) -> Result<()> {
    let new = into.join("new");
    // Not by copying: openssl's keys are root's alone, and the sidecar has another uid.
    fs::write(&new, fs::read(from.join(name))?)?;
    Ok(fs::rename(new, into.join(name))?)
}

#[test]
fn identities_of_every_kind_follow_each_other_and_half_of_one_is_not_used() -> Result<()> {
    let world = World::new("STRICT", "")?;
    let made = world.lab.folder().join("made");
    fs::create_dir(&made)?;
    let output = Command::new("sh").args(["-euc", MAKE]).current_dir(&made).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let authorities = ["elliptic.crt", "rivest.crt"].map(|name| fs::read_to_string(made.join(name)));
    let [elliptic, rivest] = authorities;
    let bundle = format!("{}{}{}", world.authority.pem(), elliptic?, rivest?);
    for name in ["server", "client"] {
        let mut credentials = world.authority.service(name)?;
        credentials.authorities.clone_from(&bundle);
        credentials.write(&world.identity(name))?;
    }
    let (sidecar, _client, _servers) =
        (world.server_sidecar(&[])?, world.client_sidecar()?, world.servers()?);
    let shown = || -> Result<String> {
        let page: Value = serde_json::from_str(&sidecar.admin("/certs")?.body)?;
        Ok(page["certificates"][0]["cert_chain"][0]["serial_number"].to_string())
    };
    let identity = world.identity("server");
    for (n, (kind, spelling)) in KINDS.into_iter().enumerate() {
        let from = made.join(kind);
        ensure!(fs::read_to_string(from.join("tls.key"))?.contains(spelling), "{kind} is no {spelling}");
        put(&from, &identity, "tls.key")?;
        put(&from, &identity, "tls.crt")?;
        // 101 is 65 in hexadecimal.
        let serial = format!("\"{:x}\"", 101 + n);
        eventually!(shown().is_ok_and(|now| now == serial), SOON);
        talks(world.member(WAITS)?)?;
    }
    // A certificate whose key does not come: the old identity stays, and log and metrics report it.
    let before = shown()?;
    put(&made.join("p256-sec1"), &identity, "tls.crt")?;
    eventually!(
        sidecar.stderr().text().contains("the old one is used on: tls.key is not the key of tls.crt"),
        SOON
    );
    assert_eq!((shown()?, sidecar.status("/ready")?.status), (before, 200));
    talks(world.member(WAITS)?)?;
    put(&made.join("p256-sec1"), &identity, "tls.key")?;
    eventually!(shown().is_ok_and(|now| now == "\"65\""), SOON);
    talks(world.member(WAITS)?)?;
    let page = sidecar.admin("/certs")?.body;
    ensure!(!page.contains("PRIVATE"), "{page}");
    Ok(())
}
