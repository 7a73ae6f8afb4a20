// SPDX-License-Identifier: Apache-2.0
//! Single plugins' files that earlier releases renamed away: they get their names back.

use std::fs;
use std::io;
use std::path::Path;

use crate::conflist::stand_in;
use crate::conflist::{self, Entry, MAX_BYTES};
use crate::host::files::{self, Unfinished};
use crate::host::folder::SET_ASIDE;
use crate::system::lossless::{bytes, read_lossless};

/// Gives the file `name` of `folder` its own name back, unless that is taken again or the list in its place has changed. With
/// `entry`, a list of ours stands before it at all times; without, it comes back as it was. The caller holds the node's lock.
pub(crate) fn bring_back(folder: &Path, name: &str, entry: Option<&Entry>) -> io::Result<&'static str> {
    let conf_name = name.strip_suffix(SET_ASIDE).unwrap_or(name);
    let (aside, conf) = (folder.join(name), folder.join(conf_name));
    let list = conf.with_extension("conflist");
    let original = read_lossless(&aside, MAX_BYTES)?;
    let (is_ours, is_there) = match read_lossless(&list, MAX_BYTES) {
        Ok(text) => (conflist::unwrap(&text, &original), true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (true, false),
        Err(error) => return Err(error),
    };
    let mut is_covered = false;
    if let (Some(entry), true, false) = (entry, is_ours && is_there, conf.exists())
        && let (Some(before), Ok(text)) = (stand_in::name_before(conf_name), conflist::wrap(&original, entry))
    {
        let like = fs::metadata(&aside)?;
        Unfinished::write(&folder.join(before), &bytes(&text), Some(&like), 0o600)?.replace()?;
        // Only now, since the list must not outlive its original: without that no later run would know whose it is.
        files::remove_if_there(&list)?;
        is_covered = true;
    }
    let what = match (conf.exists(), is_ours) {
        // The new file counts, and the runtime orders it before a list of ours.
        (true, _) => {
            files::remove_if_there(&aside)?;
            "removed: the network plugin wrote its file anew"
        }
        // Renamed before the list is removed, so that the folder is never without a configuration.
        (false, true) => {
            fs::rename(&aside, &conf)?;
            "is back under its name"
        }
        (false, false) => {
            files::remove_if_there(&aside)?;
            "removed: the list in its place was changed since, and stays"
        }
    };
    if is_ours && !is_covered {
        files::remove_if_there(&list)?;
    }
    files::sync_folder_of(&conf)?;
    Ok(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"{"cniVersion":"0.3.1","name":"n","type":"bridge"}"#;
    const BEFORE: &str = "10-a.0-culvert.conflist";

    fn our_entry() -> Entry {
        Entry::new(Path::new("/run/culvert"), None).unwrap()
    }

    #[test]
    fn a_conf_that_was_set_aside_comes_back_unless_its_place_is_taken() {
        let wrapped = conflist::wrap(CONF, &our_entry()).unwrap();
        // As the releases wrote it that renamed the file away.
        let earlier = wrapped.replace("  \"loadOnlyInlinedPlugins\": true,\n", "");
        assert_ne!(wrapped, earlier);
        let entry = our_entry();
        for (name, conf, list, expected) in [
            ("untouched", None, Some(wrapped.as_str()), &[("10-a.conf", CONF)][..]),
            ("of an earlier release", None, Some(earlier.as_str()), &[("10-a.conf", CONF)]),
            ("list gone", None, None, &[("10-a.conf", CONF)]),
            ("list changed", None, Some("{}"), &[("10-a.conflist", "{}")]),
            ("written anew", Some("new"), Some(earlier.as_str()), &[("10-a.conf", "new")]),
            ("both changed", Some("new"), Some("{}"), &[("10-a.conf", "new"), ("10-a.conflist", "{}")]),
        ] {
            for with in [None, Some(&entry)] {
                let folder = tempfile::tempdir().unwrap();
                let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
                let aside = format!("10-a.conf{SET_ASIDE}");
                write(&aside, CONF);
                conf.inspect(|text| write("10-a.conf", text));
                list.inspect(|text| write("10-a.conflist", text));
                bring_back(folder.path(), &aside, with).unwrap();
                let mut found: Vec<_> = fs::read_dir(folder.path())
                    .unwrap()
                    .map(|file| file.unwrap().file_name().into_string().unwrap())
                    .map(|file| (fs::read_to_string(folder.path().join(&file)).unwrap(), file))
                    .map(|(text, file)| (file, text))
                    .collect();
                found.sort();
                let ours =
                    found.iter().position(|(file, _)| file == BEFORE).map(|index| found.remove(index).1);
                let expected: Vec<_> =
                    expected.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
                assert_eq!(found, expected, "{name}");
                let is_covered = with.is_some() && conf.is_none() && list.is_some_and(|list| list != "{}");
                assert_eq!(ours, is_covered.then(|| wrapped.clone()), "{name}");
            }
        }
    }
}
