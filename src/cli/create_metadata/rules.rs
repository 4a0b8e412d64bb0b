//! When metadata is not made: one row for each case. Pure: what was found goes in, reasons come out.

use std::path::{Path, PathBuf};

use crate::config_file::values::show_size;

/// What the disk is to hold afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing that counts: Inconsistent.
    New,
    /// Zeroes.
    Zeroed,
    /// What is there now.
    Adopted,
}

/// Whether the operator allows the loss of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Allowed.
    Given,
    /// Not allowed.
    NotGiven,
}

/// What was found on the disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The data disk.
    pub data_path: PathBuf,
    /// The metadata disk, if it is one of its own.
    pub metadata_path: Option<PathBuf>,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Whether there is a data disk already.
    pub data_exists: bool,
    /// Old metadata, in words.
    pub old_metadata: Option<String>,
    /// What shows at the beginning of the data disk.
    pub on_data: Vec<&'static str>,
    /// What shows at its end.
    pub at_end_of_data: Vec<&'static str>,
    /// What shows on the metadata disk.
    pub on_metadata: Vec<&'static str>,
    /// Size of the file system on the data disk, if it says.
    pub file_system_bytes: Option<u64>,
}

/// One case in which metadata is not made.
struct Rule {
    applies: fn(&Findings, Content) -> bool,
    /// Whether `--force` lifts it.
    yields: bool,
    /// What there is, and what to do instead of losing it.
    reason: fn(&Findings) -> String,
}

const RULES: [Rule; 7] = [
    Rule {
        applies: |found, _| found.old_metadata.is_some(),
        yields: true,
        reason: |found| {
            let old = found.old_metadata.as_deref().unwrap_or_default();
            format!("{old}: --force discards it, and with it what this node knows of its peers")
        },
    },
    Rule {
        applies: |found, content| {
            content == Content::Zeroed && !(found.on_data.is_empty() && found.at_end_of_data.is_empty())
        },
        yields: true,
        reason: |found| {
            let names = [&found.on_data[..], &found.at_end_of_data].concat();
            let cure = "--force zeroes it, --uptodate instead of --uptodate-zeroed adopts it";
            in_the_way(&found.data_path, "holds", &names, cure)
        },
    },
    Rule {
        applies: |found, content| {
            content == Content::New && found.metadata_path.is_none() && !found.on_data.is_empty()
        },
        yields: true,
        reason: |found| {
            let cure = "internal metadata overwrites its end; --force does, --uptodate adopts it";
            in_the_way(&found.data_path, "holds", &found.on_data, cure)
        },
    },
    Rule {
        applies: |found, _| found.metadata_path.is_none() && !found.at_end_of_data.is_empty(),
        yields: false,
        reason: |found| {
            let cure = "internal metadata would be there; write metadata = PATH, or remove it with `wipefs`";
            in_the_way(&found.data_path, "ends with", &found.at_end_of_data, cure)
        },
    },
    Rule {
        applies: |found, _| !found.on_metadata.is_empty(),
        yields: false,
        reason: |found| {
            let path = found.metadata_path.as_deref().unwrap_or(&found.data_path);
            let cure = "write another path, or remove it with `wipefs`";
            in_the_way(path, "is to hold metadata and holds", &found.on_metadata, cure)
        },
    },
    Rule {
        applies: |found, content| content == Content::Adopted && !found.data_exists,
        yields: false,
        reason: |found| {
            format!(
                "{} does not exist, so there is nothing to adopt: --uptodate-zeroed makes it",
                found.data_path.display()
            )
        },
    },
    Rule {
        applies: |found, content| {
            content == Content::Adopted
                && found.file_system_bytes.is_some_and(|bytes| bytes > found.volume_bytes)
        },
        yields: false,
        reason: |found| {
            format!(
                "the file system on {} has {}, the volume {}: write a larger size, or shrink the file system first",
                found.data_path.display(),
                show_size(found.file_system_bytes.unwrap_or_default()),
                show_size(found.volume_bytes)
            )
        },
    },
];

/// Every reason against it. Empty: it may be done.
pub fn refusals(found: &Findings, content: Content, force: Force) -> Vec<String> {
    let stands = |rule: &&Rule| (rule.applies)(found, content) && !(rule.yields && force == Force::Given);
    RULES.iter().filter(stands).map(|rule| (rule.reason)(found)).collect()
}

/// What is lost by doing it, to be printed before.
pub fn discarded(found: &Findings, content: Content) -> Vec<String> {
    let path = found.data_path.display();
    let mut lines = Vec::new();
    if let Some(old) = &found.old_metadata {
        lines.push(format!("discarding: {old}"));
    }
    let names = found.on_data.join(", ");
    match content {
        Content::Zeroed if found.data_exists && names.is_empty() => {
            lines.push(format!("discarding: everything on {path}"));
        }
        Content::Zeroed if found.data_exists => {
            lines.push(format!("discarding: everything on {path}: {names}"))
        }
        Content::New if !found.on_data.is_empty() => {
            lines.push(format!("note: {path} holds: {names}; the first sync from a peer overwrites it"));
        }
        Content::Zeroed | Content::New | Content::Adopted => {}
    }
    lines
}

/// What was found on a disk, and what to do about it.
fn in_the_way(path: &Path, verb: &str, names: &[&str], cure: &str) -> String {
    format!("{} {verb}: {}: {cure}", path.display(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENTS: [Content; 3] = [Content::New, Content::Zeroed, Content::Adopted];

    fn empty_disk() -> Findings {
        Findings {
            data_path: "/dev/data".into(),
            metadata_path: None,
            volume_bytes: 1 << 30,
            data_exists: true,
            old_metadata: None,
            on_data: Vec::new(),
            at_end_of_data: Vec::new(),
            on_metadata: Vec::new(),
            file_system_bytes: None,
        }
    }

    /// For each content: whether it is refused without and with force.
    fn verdicts(found: &Findings) -> [(bool, bool); 3] {
        let refused = |content, force| !refusals(found, content, force).is_empty();
        CONTENTS.map(|content| (refused(content, Force::NotGiven), refused(content, Force::Given)))
    }

    #[test]
    fn an_empty_disk_takes_anything() {
        assert_eq!(verdicts(&empty_disk()), [(false, false); 3]);
    }

    #[test]
    fn old_metadata_is_discarded_only_by_force() {
        let found = Findings { old_metadata: Some("/dev/data holds metadata".into()), ..empty_disk() };
        assert_eq!(verdicts(&found), [(true, false); 3]);
        assert_eq!(discarded(&found, Content::New), ["discarding: /dev/data holds metadata"]);
    }

    #[test]
    fn a_file_system_is_zeroed_only_by_force_and_adopted_without() {
        let separate =
            Findings { on_data: vec!["ext4"], metadata_path: Some("/dev/meta".into()), ..empty_disk() };
        assert_eq!(verdicts(&separate), [(false, false), (true, false), (false, false)]);
        let internal = Findings { metadata_path: None, ..separate };
        assert_eq!(verdicts(&internal), [(true, false), (true, false), (false, false)]);
    }

    #[test]
    fn internal_metadata_never_goes_over_something_at_the_end() {
        let internal = Findings { at_end_of_data: vec!["GPT"], ..empty_disk() };
        assert_eq!(verdicts(&internal), [(true, true); 3]);
        let separate = Findings { metadata_path: Some("/dev/meta".into()), ..internal };
        assert_eq!(verdicts(&separate), [(false, false), (true, false), (false, false)]);
    }

    #[test]
    fn a_metadata_disk_that_holds_something_else_is_refused_always() {
        let found =
            Findings { metadata_path: Some("/dev/meta".into()), on_metadata: vec!["swap"], ..empty_disk() };
        assert_eq!(verdicts(&found), [(true, true); 3]);
    }

    #[test]
    fn nothing_and_what_does_not_fit_cannot_be_adopted() {
        let missing = Findings { data_exists: false, ..empty_disk() };
        assert_eq!(verdicts(&missing), [(false, false), (false, false), (true, true)]);
        let too_large = Findings { file_system_bytes: Some((1 << 30) + 1), ..empty_disk() };
        assert_eq!(verdicts(&too_large), [(false, false), (false, false), (true, true)]);
        let fits = Findings { file_system_bytes: Some(1 << 30), ..empty_disk() };
        assert_eq!(verdicts(&fits), [(false, false); 3]);
    }
}
