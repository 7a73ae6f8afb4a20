// SPDX-License-Identifier: Apache-2.0
//! `redirect remove`: undoes `apply`; safe to run again.

use culvert_cni::redirect;
use culvert_cni::redirect::RedirectError;
use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::loopback::HopAddress;
use culvert_cni::redirect::policy::IpFamilies;

use super::RedirectRefusal;
use super::record::{Record, RecordFile};
use super::rules::{self, Found};
use crate::cli::redirect::RemoveArgs;
use crate::command::answer::Answer;
use crate::command::answer::Exit;
use crate::probe::place::Place;

pub(crate) fn run(args: &RemoveArgs) -> Result<Answer, RedirectRefusal> {
    let RemoveArgs { place: where_, force } = args;
    let place = Place::open(where_.netns.as_deref())?;
    let file = RecordFile::new(&where_.state_dir, place.id());
    let record = file.read()?;
    let work = Work { record: record.clone(), may_remove_others: *force, place: place.to_string() };
    let (found, errors) = place.run(move || work.run())??;
    if !errors.is_empty() {
        // The record stays, so that a second run removes the rest.
        let lines: String = errors.iter().map(|error| format!("  {error}\n")).collect();
        let err = format!("culvert-install: not all of the redirect in {place} could be removed:\n{lines}");
        return Ok(Answer { out: String::new(), err, exit: Exit::Attention });
    }
    file.remove()?;
    Ok(Answer::said(told(&place.to_string(), &found, record.as_ref()), Exit::Well))
}

fn told(place: &str, found: &[Found], record: Option<&Record>) -> String {
    let engines: Vec<_> = found.iter().map(|found| found.engine.name()).collect();
    let rules = if engines.is_empty() { "none were there".to_owned() } else { engines.join(", ") };
    match record {
        None if found.is_empty() => format!("No redirect in {place}: there is nothing to remove.\n"),
        None => format!(
            "Redirect removed from {place}: rules ({rules}). There is no record of sysctls and ::6: they stay as they are.\n"
        ),
        Some(Record { footprint, .. }) => {
            let address = if footprint.hop_address == HopAddress::Added { ", ::6 on lo" } else { "" };
            let sysctls: Vec<_> =
                footprint.sysctls.iter().map(|sysctl| sysctl.name.replace('/', ".")).collect();
            let sysctls = if sysctls.is_empty() { "none".to_owned() } else { sysctls.join(", ") };
            format!("Redirect removed from {place}: rules ({rules}){address}, sysctls ({sysctls}).\n")
        }
    }
}

/// Work inside the namespace.
struct Work {
    record: Option<Record>,
    may_remove_others: bool,
    place: String,
}

impl Work {
    fn run(self) -> Result<(Vec<Found>, Vec<RedirectError>), RedirectRefusal> {
        let Self { record, may_remove_others, place } = self;
        let found = rules::found(record.as_ref())?;
        let another = found.iter().find_map(|found| found.another(record.as_ref()));
        if let Some(owner) = another.filter(|_| !may_remove_others) {
            return Err(RedirectRefusal::Anothers { owner, place });
        }
        let mut errors: Vec<_> =
            found.iter().filter_map(|found| found.engine.remove().err()).map(Into::into).collect();
        if let Some(Record { engine, footprint }) = record {
            // The recorded engine again: with or without rules, it undoes the remaining changes.
            let engine = Engine::by_name(&engine, IpFamilies::Dual).unwrap_or(Engine::Nftables);
            errors.extend(redirect::remove(engine, Some(&footprint)));
        }
        Ok((found, errors))
    }
}
