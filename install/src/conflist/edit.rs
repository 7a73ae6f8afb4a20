// SPDX-License-Identifier: Apache-2.0
//! Insertion of our entry into a text, and its removal.

use super::document::{Conf, Conflist, Invalid, makes_network, speakable};
use super::entry::{Entry, TYPE};
use super::go_json;
use super::position::Position;

/// Result of a check of our entry's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ensured {
    AsItShould,
    /// The entry stands as it should in this text.
    Needs(String),
}

/// Plugins that runtimes document as the last of a chain and that must not stand behind ours: a redirect comes after
/// the ports and limits of the network that it redirects.
const BEFORE_OURS: [&str; 1] = ["portmap"];

/// Returns the text in which `entry` stands exactly once, unchanged and in its place. Plugins that came later may
/// stand behind ours, except those of [`BEFORE_OURS`].
pub(crate) fn ensure(text: &str, entry: &Entry, position: &Position) -> Result<Ensured, Invalid> {
    let conflist = Conflist::parse(text)?;
    conflist.speakable()?;
    conflist.makes_network()?;
    let ours: Vec<usize> =
        (0..conflist.plugins.len()).filter(|index| conflist.plugins[*index].kind == TYPE).collect();
    if let [index] = ours.as_slice()
        && is_behind(&conflist, *index, position)
        && conflist.plugin(*index).is_some_and(|text| entry.is(text))
    {
        return Ok(Ensured::AsItShould);
    }
    let without = remove(text)?.unwrap_or_else(|| text.to_owned());
    Ok(Ensured::Needs(insert(&Conflist::parse(&without)?, entry, position)))
}

fn is_behind(conflist: &Conflist<'_>, index: usize, position: &Position) -> bool {
    let needed = |kind: &str| match position {
        Position::Last => BEFORE_OURS.contains(&kind),
        Position::After(wanted) => kind == wanted,
    };
    index > 0 && !conflist.plugins[index..].iter().any(|plugin| needed(&plugin.kind))
}

/// Inserts our entry behind one of the plugins, in the style of its neighbours.
fn insert(conflist: &Conflist<'_>, entry: &Entry, position: &Position) -> String {
    let Conflist { text, plugins, .. } = conflist;
    let behind = match position {
        Position::Last => None,
        Position::After(kind) => plugins.iter().rposition(|plugin| plugin.kind == *kind),
    };
    let behind = behind.unwrap_or(plugins.len() - 1);
    let end = plugins[behind].span.end;
    let style = Style::of(conflist, behind);
    let mut out = String::with_capacity(text.len() + 1024);
    out.push_str(&text[..end]);
    out.push(',');
    out.push_str(style.between);
    out.push_str(&style.render(entry));
    out.push_str(&text[end..]);
    out
}

/// Removes every copy of our entry. None if there is no copy, or nothing else would remain.
pub(crate) fn remove(text: &str) -> Result<Option<String>, Invalid> {
    let mut text = text.to_owned();
    let mut removed = false;
    loop {
        let conflist = Conflist::parse(&text)?;
        let plugins = &conflist.plugins;
        let Some(index) = plugins.iter().rposition(|plugin| plugin.kind == TYPE) else { break };
        let cut = match (index.checked_sub(1), plugins.get(index + 1)) {
            // Cut from the end of the plugin before it: exactly what `insert` added.
            (Some(before), _) => plugins[before].span.end..plugins[index].span.end,
            (None, Some(after)) => plugins[index].span.start..after.span.start,
            (None, None) => return Ok(None),
        };
        text = format!("{}{}", &text[..cut.start], &text[cut.end..]);
        removed = true;
    }
    Ok(removed.then_some(text))
}

/// Makes a list of a single plugin and ours and keeps the plugin's text, as libcni does itself. libcni 1.3 and later reads a
/// drop-in folder for a list, and none for a single plugin, so the list asks for none.
pub(crate) fn wrap(text: &str, entry: &Entry) -> Result<String, Invalid> {
    let Conf { object, name, cni_version, kind } = Conf::parse(text)?;
    speakable(cni_version.as_deref())?;
    makes_network(&[&kind])?;
    if name.is_empty() {
        return Err(Invalid::Missing("name"));
    }
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let version = cni_version.map(|version| format!("\n  \"cniVersion\": {},", quoted(&version)));
    Ok(format!(
        "{{{}\n  \"name\": {},\n  \"loadOnlyInlinedPlugins\": true,\n  \"plugins\": [\n    {object},\n    {}\n  ]\n}}\n",
        version.unwrap_or_default(),
        quoted(&name),
        entry.compact(" ")
    ))
}

/// Returns true if the list `conflist` without our entry says the same as the single plugin's `conf`, so that it came
/// from [`wrap`]. Earlier releases renamed the plugin's file away and put such a list in its place.
pub(crate) fn unwrap(conflist: &str, conf: &str) -> bool {
    let Ok(without) = remove(conflist).map(|without| without.unwrap_or_else(|| conflist.to_owned())) else {
        return false;
    };
    let (Ok(list), Ok(single)) = (Conflist::parse(&without), Conf::parse(conf)) else { return false };
    let same = |a: &str, b: &str| go_json::value(a).is_some_and(|a| Some(a) == go_json::value(b));
    list.name == single.name
        && list.cni_version == single.cni_version
        && list.plugins.len() == 1
        && list.plugin(0).is_some_and(|plugin| same(plugin, single.object))
}

/// White space that a text puts around its plugins.
struct Style<'a> {
    /// Between a comma and the next plugin.
    between: &'a str,
    /// The same plus one step of indentation, if each plugin starts a line.
    inner: Option<String>,
    colon: &'static str,
}

impl<'a> Style<'a> {
    /// Reads the style from the plugin at `index`.
    fn of(conflist: &Conflist<'a>, index: usize) -> Self {
        let Conflist { text, plugins, .. } = conflist;
        let own = &text[plugins[index].span.clone()];
        let before = &text[..plugins[index].span.start];
        let between = &before[before.trim_end_matches([' ', '\t', '\r', '\n']).len()..];
        let newline = if between.contains("\r\n") { "\r\n" } else { "\n" };
        // The first key is indented one step further than its brace.
        let first_key = &own[1..];
        let first_key = &first_key[..first_key.len() - first_key.trim_start().len()];
        let inner = (between.contains('\n') && first_key.contains('\n')).then(|| {
            let indent = first_key.rsplit('\n').next().unwrap_or_default();
            format!("{newline}{indent}")
        });
        let colon = if own.contains("\": ") { " " } else { "" };
        // In `[{…}` and `[ {…}` the space behind a comma is taken from the second plugin, if there is one.
        let between = if index == 0 && !between.contains('\n') { colon_space(colon) } else { between };
        Self { between, inner, colon }
    }

    fn render(&self, entry: &Entry) -> String {
        match &self.inner {
            Some(inner) => entry.lines(inner, self.between, self.colon),
            None => entry.compact(self.colon),
        }
    }
}

/// A text with a space behind its colons has one behind its commas.
const fn colon_space(colon: &'static str) -> &'static str {
    colon
}
