// SPDX-License-Identifier: Apache-2.0
//! The iptables engine, for kernels without nf_tables' NAT in `inet` (before 5.2): one `iptables-restore --noflush` per
//! family, read back with `iptables-save`; a failure in one family restores both.

mod render;
mod run;
mod save;

pub(crate) use self::render::PREFIX;
use self::render::{Rendered, render, restore_text};
pub use self::run::Variant;
pub(crate) use self::run::{RunError, isolate};
use self::run::{Tool, find, run};
use super::owner::Owner;
use super::policy::IpFamilies;
use super::ruleset::{Family, Ruleset};

/// Seconds that the programs wait for the host's lock, if [`isolate`] could not give them one of their own.
const LOCK_WAIT: &str = "1";

/// The lines from before [`apply`], by family, for [`undo`].
#[derive(Debug, Default)]
pub(crate) struct SavedTables(Vec<(Family, Rendered)>);

impl SavedTables {
    /// Returns true if no rule of culvert was there.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, found)| found.is_empty())
    }
}

/// List the families for which programs are needed.
fn families(families: IpFamilies) -> Vec<Family> {
    match families {
        IpFamilies::Dual => vec![Family::V4, Family::V6],
        IpFamilies::V4 => vec![Family::V4],
        IpFamilies::V6 => vec![Family::V6],
    }
}

/// Render `rules` for `iptables-restore` (or `ip6tables-restore`), for people and for golden files.
pub fn script(rules: &Ruleset, family: Family) -> String {
    restore_text(&Rendered::new(), &render(rules, None, family))
}

/// Write `rules` into the kernel for `owner`; `None` if the same rules were there already.
pub(crate) fn apply(
    variant: Variant,
    rules: &Ruleset,
    owner: &Owner,
    which: IpFamilies,
) -> Result<Option<SavedTables>, RunError> {
    let mut before = SavedTables::default();
    let mut unchanged = true;
    for family in families(which) {
        let found = read_family(variant, family)?;
        let same_pod = save::owner(&found).is_some_and(|found| found.container == owner.container);
        unchanged &= same_pod && save::difference(&render(rules, Some(owner), family), &found).is_empty();
        before.0.push((family, found));
    }
    if unchanged {
        return Ok(None);
    }
    for (index, (family, found)) in before.0.iter().enumerate() {
        let wanted = render(rules, Some(owner), *family);
        if let Err(error) = restore(variant, *family, &restore_text(found, &wanted)) {
            // iptables-restore commits table by table, so this family may be half written too.
            let touched = SavedTables(before.0.drain(..=index).collect());
            undo(variant, &touched)?;
            return Err(error);
        }
    }
    Ok(Some(before))
}

/// Replace the present rules by those of `snapshot`, in each of its families.
pub(crate) fn undo(variant: Variant, snapshot: &SavedTables) -> Result<(), RunError> {
    let mut first_error = Ok(());
    for (family, wanted) in &snapshot.0 {
        let put_back = || -> Result<(), RunError> {
            let found = read_family(variant, *family)?;
            restore(variant, *family, &restore_text(&found, wanted))
        };
        first_error = first_error.and(put_back());
    }
    first_error
}

/// Compare the kernel's state with the plan; one line for each difference.
pub(crate) fn difference(
    variant: Variant,
    rules: &Ruleset,
    which: IpFamilies,
) -> Result<Vec<String>, RunError> {
    let mut lines = Vec::new();
    for family in families(which) {
        let found = read_family(variant, family)?;
        lines.extend(save::difference(&render(rules, None, family), &without_about(found)));
    }
    Ok(lines)
}

/// Read the owner's note. `None`: no rules of culvert; `Some(None)`: rules without a note.
pub(crate) fn owner(variant: Variant) -> Result<Option<Option<Owner>>, RunError> {
    let found = read_family(variant, Family::V4)?;
    let found = if found.is_empty() { read_family(variant, Family::V6)? } else { found };
    Ok((!found.is_empty()).then(|| save::owner(&found)))
}

/// Delete culvert's chains in both families. Continues after a failure and returns the first.
pub(crate) fn remove(variant: Variant) -> Result<(), RunError> {
    let nothing = [Family::V4, Family::V6].map(|family| (family, Rendered::new()));
    undo(variant, &SavedTables(nothing.into()))
}

/// Name NAT rules and drop policies of other programs that iptables-legacy wrote, a line each. Best effort.
pub(crate) fn others_of_legacy() -> Vec<String> {
    isolate();
    let mut lines = Vec::new();
    for family in families(IpFamilies::Dual) {
        let saved = find(Tool::Save, Variant::Legacy, family).and_then(|program| run(&program, &[], b""));
        lines.extend(save::others(family, &saved.unwrap_or_default()));
    }
    lines
}

/// Returns the built-in chain of nat that leads into culvert's chain `name`.
pub(crate) fn hooked_into(name: &str) -> Option<&'static str> {
    match name {
        "CULVERT_INBOUND" => Some("PREROUTING"),
        "CULVERT_OUTBOUND" => Some("OUTPUT"),
        _ => None,
    }
}

/// Find the programs of `variant` for all families of `which`.
pub fn available(variant: Variant, which: IpFamilies) -> Result<(), RunError> {
    for family in families(which) {
        find(Tool::Restore, variant, family)?;
        find(Tool::Save, variant, family)?;
    }
    Ok(())
}

fn without_about(mut found: Rendered) -> Rendered {
    for lines in found.values_mut() {
        lines.chains.retain(|chain| chain != "CULVERT_ABOUT");
    }
    found
}

fn read_family(variant: Variant, family: Family) -> Result<Rendered, RunError> {
    Ok(save::parse(&run(&find(Tool::Save, variant, family)?, &[], b"")?))
}

fn restore(variant: Variant, family: Family, text: &str) -> Result<(), RunError> {
    if text.is_empty() {
        return Ok(());
    }
    let arguments = ["--noflush", "-w", LOCK_WAIT];
    run(&find(Tool::Restore, variant, family)?, &arguments, text.as_bytes()).map(drop)
}
