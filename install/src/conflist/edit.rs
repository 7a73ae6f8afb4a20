// SPDX-License-Identifier: Apache-2.0
//! Our entry, spliced into a text and cut out of it again.

use super::document::{Conf, Conflist, Invalid, speakable};
use super::entry::{Entry, TYPE};
use super::position::Position;

/// What it takes for our entry to stand as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ensured {
    /// It does.
    AsItShould,
    /// It would in this text.
    Needs(String),
}

/// Plugins that runtimes' own documentation puts last, and that must not stand behind ours: a redirect comes after the
/// ports and limits of the network that it redirects.
const BEFORE_OURS: [&str; 1] = ["portmap"];

/// The text in which `entry` stands once, as it is, where it belongs. Ours may stand before others that came later, but
/// for those that it must stand behind.
pub(crate) fn ensure(text: &str, entry: &Entry, position: &Position) -> Result<Ensured, Invalid> {
    let conflist = Conflist::parse(text)?;
    conflist.speakable()?;
    if conflist.plugins.iter().all(|plugin| plugin.kind == TYPE) {
        return Err(Invalid::Alone);
    }
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

/// The text with our entry behind one of its plugins, written as its neighbours are.
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

/// The text without our entry, however often it stood there; none where it did not, or is all that stands there.
pub(crate) fn remove(text: &str) -> Result<Option<String>, Invalid> {
    let mut text = text.to_owned();
    let mut removed = false;
    loop {
        let conflist = Conflist::parse(&text)?;
        let plugins = &conflist.plugins;
        let Some(index) = plugins.iter().rposition(|plugin| plugin.kind == TYPE) else { break };
        let cut = match (index.checked_sub(1), plugins.get(index + 1)) {
            // From the end of the one before: what `insert` put in, and nothing else.
            (Some(before), _) => plugins[before].span.end..plugins[index].span.end,
            (None, Some(after)) => plugins[index].span.start..after.span.start,
            (None, None) => return Ok(None),
        };
        text = format!("{}{}", &text[..cut.start], &text[cut.end..]);
        removed = true;
    }
    Ok(removed.then_some(text))
}

/// A single plugin's configuration as a list of it and ours, its text kept: libcni's own way to make a list of one.
pub(crate) fn wrap(text: &str, entry: &Entry) -> Result<String, Invalid> {
    let Conf { object, name, cni_version, kind: _ } = Conf::parse(text)?;
    speakable(cni_version.as_deref())?;
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let version = cni_version.map(|version| format!("\n  \"cniVersion\": {},", quoted(&version)));
    Ok(format!(
        "{{{}\n  \"name\": {},\n  \"plugins\": [\n    {object},\n    {}\n  ]\n}}\n",
        version.unwrap_or_default(),
        quoted(&name),
        entry.compact(" ")
    ))
}

/// Whether the list `conflist` says no more than the single plugin's configuration `conf`, ours left out: then it is one
/// that [`wrap`] made.
pub(crate) fn unwrap(conflist: &str, conf: &str) -> bool {
    let Ok(without) = remove(conflist).map(|without| without.unwrap_or_else(|| conflist.to_owned())) else {
        return false;
    };
    let (Ok(list), Ok(single)) = (Conflist::parse(&without), Conf::parse(conf)) else { return false };
    let same = |a: &str, b: &str| {
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        value(a).is_some_and(|a| Some(a) == value(b))
    };
    list.name == single.name
        && list.cni_version == single.cni_version
        && list.plugins.len() == 1
        && list.plugin(0).is_some_and(|plugin| same(plugin, single.object))
}

/// How a text sets its plugins.
struct Style<'a> {
    /// The white space between a comma and the next plugin.
    between: &'a str,
    /// The same with one step of indentation more, where each stands on lines of its own.
    inner: Option<String>,
    /// The white space behind a colon.
    colon: &'static str,
}

impl<'a> Style<'a> {
    /// As the plugin `index` stands there.
    fn of(conflist: &Conflist<'a>, index: usize) -> Self {
        let Conflist { text, plugins, .. } = conflist;
        let own = &text[plugins[index].span.clone()];
        let before = &text[..plugins[index].span.start];
        let between = &before[before.trim_end_matches([' ', '\t', '\r', '\n']).len()..];
        let newline = if between.contains("\r\n") { "\r\n" } else { "\n" };
        // Its first key stands one step further in than its brace.
        let first_key = &own[1..];
        let first_key = &first_key[..first_key.len() - first_key.trim_start().len()];
        let inner = (between.contains('\n') && first_key.contains('\n')).then(|| {
            let indent = first_key.rsplit('\n').next().unwrap_or_default();
            format!("{newline}{indent}")
        });
        let colon = if own.contains("\": ") { " " } else { "" };
        // `[{…}` and `[ {…}`: behind a comma stands what stands before the second plugin, or nothing.
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

/// A text that sets a space behind its colons sets one behind its commas.
const fn colon_space(colon: &'static str) -> &'static str {
    colon
}
