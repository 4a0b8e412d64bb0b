//! `split-brain = { … }` and `rescue = { … }`: what is done about a split brain without asking, and where what it costs
//! is kept.

use std::path::PathBuf;

use replicator::generation::split_brain::{Policies, Policy, Primaries};

use crate::config_file::RescueConfig;
use crate::config_file::section::Section;
use crate::config_file::values;

const POLICY_KEYS: [&str; 3] = ["no-primary", "one-primary", "two-primaries"];
const RESCUE_KEYS: [&str; 2] = ["folder", "size-max"];
/// Where rescues are kept unless something else is configured.
const FOLDER: &str = "/var/lib/twinblk";

/// The policies; all of them `disconnect` unless something else is written.
pub fn read_policies(root: &Section<'_>) -> Option<Policies> {
    let mut policies = Policies::default();
    if !root.has("split-brain") {
        return Some(policies);
    }
    let example =
        "split-brain = { no-primary = \"discard-zero-changes\", one-primary = \"discard-secondary\" }";
    let section = root.section("split-brain", "split-brain", example, &POLICY_KEYS)?;
    for (case, key, legal) in Primaries::ALL {
        if !section.has(key) {
            continue;
        }
        let policy = read_policy(&section, key, legal)?;
        match case {
            Primaries::None => policies.no_primary = policy,
            Primaries::One => policies.one_primary = policy,
            Primaries::Two => policies.two_primaries = policy,
        }
    }
    Some(policies)
}

fn read_policy(section: &Section<'_>, key: &str, legal: &[Policy]) -> Option<Policy> {
    let text = section.text(key)?;
    let found = Policy::ALL.iter().find(|(_, name)| *name == text.value).map(|(policy, _)| *policy);
    if let Some(policy) = found.filter(|policy| legal.contains(policy)) {
        return Some(policy);
    }
    let wrong = match found {
        None => format!("{key}: `{}` is no policy", text.value),
        Some(_) if key == "two-primaries" => format!("{key}: where both are Primary there is no Secondary"),
        Some(_) => format!("{key}: without a Primary there is no Secondary that could give way to it"),
    };
    let names: Vec<String> = legal.iter().map(|policy| format!("\"{}\"", policy.name())).collect();
    section.problems().add(text.line, wrong, format_args!("write one of {}", names.join(", ")));
    None
}

/// Where rescues are kept.
pub fn read_rescue(root: &Section<'_>) -> Option<RescueConfig> {
    let mut rescue = RescueConfig { folder: PathBuf::from(FOLDER), bytes_max: None };
    if !root.has("rescue") {
        return Some(rescue);
    }
    let example = "rescue = { folder = \"/var/lib/twinblk\", size-max = \"10GiB\" }";
    let section = root.section("rescue", "rescue", example, &RESCUE_KEYS)?;
    if section.has("folder") {
        rescue.folder = section.parsed("folder", values::parse_path)?.value;
    }
    if section.has("size-max") {
        rescue.bytes_max = Some(section.size("size-max")?.value);
    }
    Some(rescue)
}
