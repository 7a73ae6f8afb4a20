// SPDX-License-Identifier: Apache-2.0
//! `redirect verify`: differences between the kernel and what `apply` would write. Changes nothing.

use culvert_cni::redirect;

use super::record::RecordFile;
use super::{RedirectRefusal, SSH_KEPT_OUT, rules};
use crate::cli::redirect::VerifyArgs;
use crate::command::answer::Answer;
use crate::command::answer::Exit;
use crate::command::settings;
use crate::probe::place::Place;

pub(crate) fn run(args: &VerifyArgs) -> Result<Answer, RedirectRefusal> {
    let VerifyArgs { settings, place: where_ } = args;
    let wanted = settings::wanted(settings, where_.netns.as_deref())?;
    let place = Place::open(where_.netns.as_deref())?;
    let record = RecordFile::new(&where_.state_dir, place.id()).read()?;
    let policy = wanted.policy;
    let work = move || -> Result<_, RedirectRefusal> {
        let found = rules::found(record.as_ref())?;
        let engine = rules::expected(&policy, record.as_ref(), &found)?;
        let mut differences = redirect::verify(&policy, engine)?;
        let others = found.iter().filter(|found| found.engine.name() != engine.name());
        differences.extend(others.map(|found| format!("rules of {} are there as well", found.engine.name())));
        Ok((engine, differences))
    };
    let (engine, differences) = place.run(work)??;
    let name = engine.name();
    let mut out = String::new();
    if differences.is_empty() {
        out.push_str(&format!("The redirect in {place} is as `redirect apply` would write it by {name}.\n"));
    } else {
        out.push_str(&format!(
            "The redirect in {place} is not as `redirect apply` would write it by {name}:\n"
        ));
        out.extend(differences.iter().map(|difference| format!("  {difference}\n")));
        out.push_str("To do: `redirect apply` with the same options.\n");
    }
    let exit = if differences.is_empty() { Exit::Well } else { Exit::Attention };
    let notes: Vec<_> = wanted.keeps_ssh.then(|| SSH_KEPT_OUT.to_owned()).into_iter().collect();
    Ok(Answer::said(out, exit).with("warning", &wanted.warnings).with("note", &notes))
}
