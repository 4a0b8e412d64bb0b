//! When metadata is not made: one row for each case. Pure: what was found goes in, reasons come out.

use std::path::PathBuf;

use replicator::units::BLOCK_BYTES;

use crate::config_file::values::show_size;
use crate::data_plane::backing_device::device::DeviceKind;

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

/// A disk that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDisk {
    /// A file can grow, a device cannot.
    pub kind: DeviceKind,
    /// Its size.
    pub bytes: u64,
    /// What shows at its beginning.
    pub head: Vec<&'static str>,
    /// What shows at its end.
    pub tail: Vec<&'static str>,
    /// Where its content ends, if that is one file system that says so.
    pub content_bytes: Option<u64>,
    /// Whether it holds metadata of twinblk.
    pub is_ours: bool,
    /// Whether it holds anything but zeroes. Of a device, and of what is not to hold metadata, nobody knows.
    pub is_filled: bool,
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
    /// Size of the metadata.
    pub metadata_bytes: u64,
    /// The data disk, if it exists.
    pub data: Option<FoundDisk>,
    /// The metadata disk, if it is one of its own and exists.
    pub metadata: Option<FoundDisk>,
    /// Old metadata, in words.
    pub old_metadata: Option<String>,
}

impl FoundDisk {
    /// Everything that shows on it.
    fn names(&self) -> String {
        let mut names = self.head.clone();
        names.extend(self.tail.iter().filter(|name| !self.head.contains(name)));
        names.join(", ")
    }

    /// Where its content ends at the latest.
    fn content_end(&self) -> u64 {
        self.content_bytes.unwrap_or(self.bytes)
    }

    fn is_too_small(&self, needed: u64) -> bool {
        self.kind == DeviceKind::BlockDevice && self.bytes - self.bytes % BLOCK_BYTES < needed
    }
}

impl Findings {
    fn is_internal(&self) -> bool {
        self.metadata_path.is_none()
    }

    /// What the data disk must have.
    fn data_bytes_needed(&self) -> u64 {
        self.volume_bytes + if self.is_internal() { self.metadata_bytes } else { 0 }
    }

    /// Whether internal metadata would go over something that shows on the data disk. A file grows first, as far as
    /// it must.
    fn covers_signature(&self, content: Content) -> bool {
        let Some(data) = self.data.as_ref().filter(|_| self.is_internal()) else { return false };
        let bytes = data.bytes.max(self.data_bytes_needed());
        let area_offset = (bytes - bytes % BLOCK_BYTES).saturating_sub(self.metadata_bytes);
        // How far adopted content may reach has rows of its own.
        let covers_content =
            content != Content::Adopted && !data.head.is_empty() && data.content_end() > area_offset;
        covers_content || !data.tail.is_empty() && data.bytes > area_offset
    }
}

/// One case in which metadata is not made.
struct Rule {
    #[cfg_attr(not(test), expect(dead_code, reason = "by it tests name the row"))]
    name: &'static str,
    applies: fn(&Findings, Content) -> bool,
    /// Whether `--force` lifts it.
    yields: bool,
    /// What there is, and what to do instead of losing it.
    reason: fn(&Findings) -> String,
}

const RULES: [Rule; 10] = [
    Rule {
        name: "old metadata",
        applies: |found, _| found.old_metadata.is_some(),
        yields: true,
        reason: |found| {
            let old = found.old_metadata.as_deref().unwrap_or_default();
            format!("{old}: --force discards it, and with it what this node knows of its peers")
        },
    },
    Rule {
        name: "data device too small",
        applies: |found, _| {
            found.data.as_ref().is_some_and(|data| data.is_too_small(found.data_bytes_needed()))
        },
        yields: false,
        reason: |found| {
            let bytes = found.data.as_ref().map_or(0, |data| data.bytes);
            let metadata = if found.is_internal() {
                format!(" and its internal metadata {}", show_size(found.metadata_bytes))
            } else {
                String::new()
            };
            format!(
                "{} has {}, the volume {}{metadata}: write a smaller size, or make the device larger",
                found.data_path.display(),
                show_size(bytes),
                show_size(found.volume_bytes)
            )
        },
    },
    Rule {
        name: "metadata device too small",
        applies: |found, _| {
            found.metadata.as_ref().is_some_and(|metadata| metadata.is_too_small(found.metadata_bytes))
        },
        yields: false,
        reason: |found| {
            format!(
                "{} has {}, the metadata {}: write a smaller journal-size, or make the device larger",
                found.metadata_place(),
                show_size(found.metadata.as_ref().map_or(0, |metadata| metadata.bytes)),
                show_size(found.metadata_bytes)
            )
        },
    },
    Rule {
        name: "zeroes over a signature",
        applies: |found, content| {
            content == Content::Zeroed
                && found.data.as_ref().is_some_and(|data| !data.names().is_empty())
                && !found.covers_signature(content)
        },
        yields: true,
        reason: |found| {
            format!(
                "{}: --force zeroes it, --uptodate instead of --uptodate-zeroed adopts it",
                found.on_data()
            )
        },
    },
    Rule {
        name: "internal metadata over a signature",
        applies: |found, content| found.covers_signature(content),
        yields: false,
        reason: |found| {
            format!(
                "{}, and internal metadata would go over it: write metadata = PATH; or, if nobody needs it, remove it with `wipefs`",
                found.on_data()
            )
        },
    },
    Rule {
        name: "metadata over a signature",
        applies: |found, _| found.metadata.as_ref().is_some_and(|metadata| !metadata.names().is_empty()),
        yields: false,
        reason: |found| {
            format!(
                "{} is to hold metadata and holds: {}: write another path; or, if nobody needs it, remove it with `wipefs`",
                found.metadata_place(),
                found.metadata.as_ref().map(FoundDisk::names).unwrap_or_default()
            )
        },
    },
    Rule {
        name: "metadata over a file of something else",
        applies: |found, _| {
            let is_unknown = |metadata: &FoundDisk| metadata.names().is_empty() && !metadata.is_ours;
            found.metadata.as_ref().is_some_and(|metadata| {
                metadata.kind == DeviceKind::File && metadata.is_filled && is_unknown(metadata)
            })
        },
        yields: true,
        reason: |found| {
            format!(
                "{} is to hold metadata and is a file of something else: write a path that does not exist yet; --force overwrites it",
                found.metadata_place()
            )
        },
    },
    Rule {
        name: "nothing to adopt",
        applies: |found, content| content == Content::Adopted && found.data.is_none(),
        yields: false,
        reason: |found| {
            format!(
                "{} does not exist, so there is nothing to adopt: --uptodate-zeroed makes it",
                found.data_path.display()
            )
        },
    },
    Rule {
        name: "adopted file system larger than the volume",
        applies: |found, content| {
            let content_bytes = found.data.as_ref().and_then(|data| data.content_bytes);
            content == Content::Adopted && content_bytes.is_some_and(|bytes| bytes > found.volume_bytes)
        },
        yields: false,
        reason: |found| {
            let content_bytes = found.data.as_ref().and_then(|data| data.content_bytes);
            format!(
                "the file system on {} has {}, the volume {}: write a larger size, or shrink the file system first",
                found.data_path.display(),
                show_size(content_bytes.unwrap_or_default()),
                show_size(found.volume_bytes)
            )
        },
    },
    Rule {
        name: "adopted content of unknown size",
        applies: |found, content| {
            let may_be_cut =
                |data: &FoundDisk| data.content_bytes.is_none() && data.bytes > found.volume_bytes;
            content == Content::Adopted && found.data.as_ref().is_some_and(may_be_cut)
        },
        yields: false,
        reason: |found| {
            let bytes = found.data.as_ref().map_or(0, |data| data.bytes);
            format!(
                "how far the content of {} reaches is not known, and the volume has {} of its {}: write size = \"{}\" and metadata = PATH",
                found.data_path.display(),
                show_size(found.volume_bytes),
                show_size(bytes),
                show_size(bytes.next_multiple_of(BLOCK_BYTES))
            )
        },
    },
];

impl Findings {
    /// The data disk and what shows on it, in words.
    fn on_data(&self) -> String {
        let names = self.data.as_ref().map(FoundDisk::names).unwrap_or_default();
        format!("{} holds: {names}", self.data_path.display())
    }

    fn metadata_place(&self) -> String {
        self.metadata_path.as_deref().unwrap_or(&self.data_path).display().to_string()
    }
}

/// The rules that stand against it.
fn standing(found: &Findings, content: Content, force: Force) -> impl Iterator<Item = &'static Rule> {
    let stands =
        move |rule: &&Rule| (rule.applies)(found, content) && !(rule.yields && force == Force::Given);
    RULES.iter().filter(stands)
}

/// Every reason against it. Empty: it may be done.
pub fn refusals(found: &Findings, content: Content, force: Force) -> Vec<String> {
    standing(found, content, force).map(|rule| (rule.reason)(found)).collect()
}

/// What is lost by doing it, to be printed before.
pub fn discarded(found: &Findings, content: Content) -> Vec<String> {
    let path = found.data_path.display();
    let mut lines = Vec::new();
    if let Some(old) = &found.old_metadata {
        lines.push(format!("discarding: {old}"));
    }
    if let Some(metadata) = found.metadata.as_ref().filter(|metadata| metadata.kind == DeviceKind::File)
        && metadata.is_filled
        && !metadata.is_ours
    {
        lines.push(format!("discarding: everything in {}", found.metadata_place()));
    }
    let names = found.data.as_ref().map(|data| data.head.join(", "));
    match (content, names.as_deref()) {
        (Content::Zeroed, Some("")) => lines.push(format!("discarding: everything on {path}")),
        (Content::Zeroed, Some(names)) => lines.push(format!("discarding: everything on {path}: {names}")),
        (Content::New, Some(names)) if !names.is_empty() => {
            lines.push(format!("note: {path} holds: {names}; the first sync from a peer overwrites it"));
        }
        (Content::Zeroed, None) | (Content::New, _) | (Content::Adopted, _) => {}
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENTS: [Content; 3] = [Content::New, Content::Zeroed, Content::Adopted];
    const GIB: u64 = 1 << 30;
    const METADATA_BYTES: u64 = 20 << 20;
    const LARGE: u64 = GIB + METADATA_BYTES;

    /// A disk of `bytes` on which nothing shows.
    fn blank(kind: DeviceKind, bytes: u64) -> FoundDisk {
        let (head, tail) = (Vec::new(), Vec::new());
        FoundDisk { kind, bytes, head, tail, content_bytes: None, is_ours: false, is_filled: true }
    }

    fn device(bytes: u64) -> FoundDisk {
        blank(DeviceKind::BlockDevice, bytes)
    }

    fn with_ext4(bytes: u64, content_bytes: u64) -> FoundDisk {
        FoundDisk { head: vec!["ext4"], content_bytes: Some(content_bytes), ..device(bytes) }
    }

    fn with_luks(bytes: u64) -> FoundDisk {
        FoundDisk { head: vec!["LUKS"], ..device(bytes) }
    }

    fn with_gpt_at_the_end(bytes: u64) -> FoundDisk {
        FoundDisk { tail: vec!["GPT"], ..device(bytes) }
    }

    /// A volume of 1 GiB whose metadata is on the data disk.
    fn internal(data: FoundDisk) -> Findings {
        Findings {
            data_path: "/dev/data".into(),
            metadata_path: None,
            volume_bytes: GIB,
            metadata_bytes: METADATA_BYTES,
            data: Some(data),
            metadata: None,
            old_metadata: None,
        }
    }

    /// The same with metadata on a blank disk of its own.
    fn separate(data: FoundDisk) -> Findings {
        let metadata = Some(device(METADATA_BYTES));
        Findings { metadata_path: Some("/dev/meta".into()), metadata, ..internal(data) }
    }

    fn names(found: &Findings, content: Content, force: Force) -> Vec<&'static str> {
        standing(found, content, force).map(|rule| rule.name).collect()
    }

    /// For each rule, cases in which it alone stands, and what the operator is about to do.
    fn cases() -> Vec<(&'static str, Content, Findings)> {
        use Content::{Adopted, New, Zeroed};
        let file = |is_filled| FoundDisk { is_filled, ..blank(DeviceKind::File, METADATA_BYTES) };
        let on_metadata = |metadata| Findings { metadata: Some(metadata), ..separate(device(GIB)) };
        vec![
            ("old metadata", New, Findings { old_metadata: Some("old".into()), ..separate(device(GIB)) }),
            ("data device too small", New, separate(device(GIB - 4096))),
            ("data device too small", Zeroed, internal(device(LARGE - 1))),
            ("metadata device too small", New, on_metadata(device(METADATA_BYTES - 4096))),
            ("zeroes over a signature", Zeroed, separate(with_luks(GIB))),
            ("zeroes over a signature", Zeroed, separate(with_gpt_at_the_end(GIB))),
            ("zeroes over a signature", Zeroed, internal(with_ext4(LARGE, GIB))),
            ("internal metadata over a signature", New, internal(with_luks(LARGE))),
            ("internal metadata over a signature", Zeroed, internal(with_luks(LARGE))),
            ("internal metadata over a signature", New, internal(with_ext4(LARGE, GIB + 1))),
            ("internal metadata over a signature", New, internal(with_gpt_at_the_end(LARGE))),
            ("internal metadata over a signature", Zeroed, internal(with_gpt_at_the_end(LARGE))),
            ("metadata over a signature", New, on_metadata(with_luks(METADATA_BYTES))),
            ("metadata over a file of something else", New, on_metadata(file(true))),
            ("nothing to adopt", Adopted, Findings { data: None, ..separate(device(GIB)) }),
            ("adopted file system larger than the volume", Adopted, separate(with_ext4(LARGE, GIB + 1))),
            ("adopted file system larger than the volume", Adopted, internal(with_ext4(LARGE, GIB + 1))),
            ("adopted content of unknown size", Adopted, internal(with_luks(LARGE))),
            ("adopted content of unknown size", Adopted, internal(device(LARGE))),
            ("adopted content of unknown size", Adopted, separate(with_luks(GIB + 4096))),
        ]
    }

    #[test]
    fn each_case_is_refused_by_its_rule_alone_and_lifted_by_force_only_where_the_table_says_so() {
        for (name, content, found) in cases() {
            assert_eq!(names(&found, content, Force::NotGiven), [name], "{content:?} {found:#?}");
            let rule = RULES.iter().find(|rule| rule.name == name).expect("a rule of that name");
            let left = if rule.yields { vec![] } else { vec![name] };
            assert_eq!(names(&found, content, Force::Given), left, "{content:?} {found:#?}");
        }
    }

    #[test]
    fn every_rule_has_a_case() {
        for rule in &RULES {
            assert!(cases().iter().any(|(name, ..)| *name == rule.name), "{}", rule.name);
        }
    }

    #[test]
    fn only_what_can_be_made_again_yields_to_force() {
        let yielding: Vec<&str> = RULES.iter().filter(|rule| rule.yields).map(|rule| rule.name).collect();
        let expected = ["old metadata", "zeroes over a signature", "metadata over a file of something else"];
        assert_eq!(yielding, expected);
    }

    #[test]
    fn what_harms_nothing_needs_no_force() {
        use Content::{Adopted, New, Zeroed};
        let untouched = FoundDisk { is_filled: false, ..blank(DeviceKind::File, METADATA_BYTES) };
        let ours = FoundDisk { is_ours: true, ..blank(DeviceKind::File, METADATA_BYTES) };
        let small_file = FoundDisk { head: vec!["LUKS"], ..blank(DeviceKind::File, GIB) };
        let no_data = Findings { data: None, ..internal(device(LARGE)) };
        let harmless = [
            (CONTENTS.to_vec(), separate(device(GIB))),
            (vec![New, Zeroed], internal(device(LARGE))),
            (vec![New, Zeroed], no_data),
            // The file system ends before the metadata begins.
            (vec![New, Adopted], internal(with_ext4(LARGE, GIB))),
            (vec![New, Adopted], separate(with_luks(GIB))),
            (vec![New, Adopted], separate(with_ext4(2 * GIB, GIB))),
            (vec![New, Adopted], separate(with_gpt_at_the_end(GIB))),
            // A file grows, and the metadata goes behind its content.
            (vec![New, Adopted], internal(small_file)),
            (vec![New], Findings { metadata: Some(untouched), ..separate(device(GIB)) }),
            (vec![New], Findings { metadata: Some(ours), ..separate(device(GIB)) }),
        ];
        for (contents, found) in harmless {
            for content in contents {
                assert_eq!(names(&found, content, Force::NotGiven), [""; 0], "{content:?} {found:#?}");
            }
        }
    }

    #[test]
    fn what_force_discards_is_named() {
        let old = Findings { old_metadata: Some("/dev/data holds it".into()), ..separate(with_luks(GIB)) };
        assert_eq!(
            discarded(&old, Content::Zeroed),
            ["discarding: /dev/data holds it", "discarding: everything on /dev/data: LUKS"]
        );
        let file = blank(DeviceKind::File, 1);
        let found = Findings { metadata: Some(file), ..separate(device(GIB)) };
        assert_eq!(discarded(&found, Content::New), ["discarding: everything in /dev/meta"]);
    }
}
