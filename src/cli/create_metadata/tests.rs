//! Metadata made from a configuration, in a temporary folder.

use std::path::PathBuf;

use super::*;
use crate::config_file::file_of;

struct Fixture {
    folder: tempfile::TempDir,
    places: Places,
}

impl Fixture {
    fn new(metadata: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let places = Places {
            config_dir: folder.path().to_owned(),
            run_dir: folder.path().to_owned(),
            node: Some("alpha".to_owned()),
        };
        let fixture = Self { folder, places };
        fixture.configure(metadata);
        fixture
    }

    fn configure(&self, metadata: &str) {
        let path = self.folder.path().display();
        let metadata = metadata.replace("DIR", &path.to_string());
        let text = format!(
            "resource = \"mail\"\nsize = \"1MiB\"\non-peer-lost = \"quorum\"\nsecret-file = \"{path}/secret\"\n[[node]]\nname = \"alpha\"\naddress = \"127.0.0.1:7789\"\ndata = \"{path}/data\"\nmetadata = \"{metadata}\"\n"
        );
        std::fs::write(file_of(self.folder.path(), "mail"), text).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn create(&self, content: Content, force: Force) -> Result<(), (u8, String)> {
        let args = CreateMetadataArgs {
            resource: "mail".to_owned(),
            uptodate: content == Content::Adopted,
            uptodate_zeroed: content == Content::Zeroed,
            force: force == Force::Given,
        };
        let status =
            |error: &anyhow::Error| error.downcast_ref::<Ended>().map_or(1, |ended| ended.status.number());
        run(&self.places, &args).map(drop).map_err(|error| (status(&error), error.to_string()))
    }

    fn superblock(&self) -> Superblock {
        self.find_superblock().expect("there")
    }

    fn find_superblock(&self) -> Option<Superblock> {
        let folder = self.folder.path();
        let loaded = ResourceConfig::load_for_node(folder, "mail", Some("alpha"), SecretUse::NotNeeded);
        let (config, alpha) = loaded.expect("good");
        let mut disks = OpenDisks::open(&disk_paths(config.node(alpha))).expect("disks");
        disks.find_area("mail").ok()?;
        disks.read_superblock().expect("readable")
    }

    /// What must still be there after a refusal.
    fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("read")
    }
}

#[test]
fn a_fresh_node_is_inconsistent_and_a_zeroed_one_up_to_date() {
    for (content, disk, lineage) in [
        (Content::New, DurableDisk::Inconsistent, Lineage::default()),
        (Content::Zeroed, DurableDisk::UpToDate, Lineage::zeroed()),
    ] {
        for metadata in ["internal", "DIR/meta"] {
            let fixture = Fixture::new(metadata);
            fixture.create(content, Force::NotGiven).expect("made");
            let superblock = fixture.superblock();
            assert_eq!(superblock.disk, disk);
            assert_eq!(superblock.lineage, lineage);
            assert_ne!(superblock.voter, VoterId::default());
        }
    }
}

#[test]
fn what_exists_is_discarded_only_by_force_and_untouched_by_a_refusal() {
    let fixture = Fixture::new("DIR/meta");
    fixture.create(Content::Zeroed, Force::NotGiven).expect("made");
    let before = std::fs::read(fixture.path("meta")).expect("read");
    let (status, text) = fixture.create(Content::New, Force::NotGiven).expect_err("refused");
    assert_eq!(status, 11);
    assert!(text.contains("metadata of resource mail") && text.contains("--force"), "{text}");
    assert!(std::fs::read(fixture.path("meta")).expect("read") == before, "a refusal changes nothing");
    fixture.create(Content::New, Force::Given).expect("by force");
    assert_eq!(fixture.superblock().disk, DurableDisk::Inconsistent);
}

#[test]
fn adopted_content_stays_as_it_is_under_a_name_of_its_own() {
    let fixture = Fixture::new("DIR/meta");
    assert_eq!(fixture.create(Content::Adopted, Force::Given).expect_err("nothing there").0, 11);
    std::fs::write(fixture.path("data"), vec![7; 1 << 20]).expect("written");
    fixture.create(Content::Adopted, Force::NotGiven).expect("made");
    assert!(std::fs::read(fixture.path("data")).expect("read").iter().all(|byte| *byte == 7));
    let newest = fixture.superblock().lineage.newest_id();
    assert!(newest != GenerationId::ZEROED && newest != GenerationId::default());
}

#[test]
fn a_file_system_is_not_zeroed_without_force() {
    let fixture = Fixture::new("DIR/meta");
    let mut content = vec![0; 1 << 20];
    content[..4].copy_from_slice(b"XFSB");
    std::fs::write(fixture.path("data"), &content).expect("written");
    let (status, text) = fixture.create(Content::Zeroed, Force::NotGiven).expect_err("refused");
    assert_eq!(status, 11);
    assert!(text.contains("XFS"), "{text}");
    assert!(!fixture.path("meta").exists(), "a refusal makes no file");
    fixture.create(Content::Zeroed, Force::Given).expect("by force");
    assert!(std::fs::read(fixture.path("data")).expect("read").iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_in_use_and_a_missing_folder_are_refused_before_anything_is_made() {
    let fixture = Fixture::new("DIR/meta");
    std::fs::write(fixture.path("data"), vec![0; 1 << 20]).expect("written");
    let user = Device::open(&fixture.path("data")).expect("open");
    let (status, text) = fixture.create(Content::New, Force::Given).expect_err("in use");
    assert_eq!(status, 11, "{text}");
    drop(user);
    assert!(!fixture.path("meta").exists());
    let nowhere = Fixture::new("DIR/none/meta");
    let (status, text) = nowhere.create(Content::New, Force::Given).expect_err("no folder");
    assert_eq!(status, 10, "{text}");
    assert!(!nowhere.path("data").exists());
}

#[test]
fn content_of_unknown_size_is_adopted_only_where_nothing_of_it_is_cut_off_or_overwritten() {
    // An ext2 of 1 MiB was there once: its size says nothing of what came after it.
    let mut content = vec![0; 2 << 20];
    content[..6].copy_from_slice(b"LUKS\xba\xbe");
    content[1024 + 4..][..4].copy_from_slice(&1024u32.to_le_bytes());
    content[1024 + 56..][..2].copy_from_slice(&[0x53, 0xef]);
    assert_eq!(file_system::size_of(&content), Some(1 << 20));
    for metadata in ["internal", "DIR/meta"] {
        let fixture = Fixture::new(metadata);
        std::fs::write(fixture.path("data"), &content).expect("written");
        let (status, text) = fixture.create(Content::Adopted, Force::Given).expect_err("refused");
        assert_eq!(status, 11);
        assert!(text.contains("write size = \"2MiB\" and metadata = PATH"), "{text}");
        assert!(fixture.content("data") == content && !fixture.path("meta").exists());
        std::fs::write(fixture.path("data"), &content[..1 << 20]).expect("written");
        fixture.create(Content::Adopted, Force::NotGiven).expect("the whole of it");
        assert!(fixture.content("data")[..1 << 20] == content[..1 << 20]);
    }
}

#[test]
fn internal_metadata_over_a_signature_is_refused_even_by_force() {
    let fixture = Fixture::new("internal");
    let mut content = vec![0; 32 << 20];
    content[(64 << 10) + 64..][..8].copy_from_slice(b"_BHRfS_M");
    std::fs::write(fixture.path("data"), &content).expect("written");
    for new in [Content::New, Content::Zeroed] {
        let (status, text) = fixture.create(new, Force::Given).expect_err("refused");
        assert_eq!(status, 11);
        assert!(text.contains("Btrfs") && text.contains("metadata = PATH"), "{text}");
        assert!(fixture.content("data") == content);
    }
}

#[test]
fn a_file_of_something_else_becomes_metadata_only_by_force_and_the_state_of_a_tiebreaker_never() {
    let fixture = Fixture::new("DIR/meta");
    std::fs::write(fixture.path("meta"), "SQLite format 3").expect("written");
    let (status, text) = fixture.create(Content::New, Force::NotGiven).expect_err("refused");
    assert!(status == 11 && text.contains("a file of something else"), "{text}");
    assert!(fixture.content("meta") == b"SQLite format 3" && !fixture.path("data").exists());
    fixture.create(Content::New, Force::Given).expect("by force");

    let mut vote = replicator::promotion::tiebreaker_file::TIEBREAKER_MAGIC.to_vec();
    vote.resize(8192, 0);
    std::fs::write(fixture.path("meta"), &vote).expect("written");
    let (_, text) = fixture.create(Content::New, Force::Given).expect_err("refused");
    assert!(text.contains("state of a twinblk tiebreaker"), "{text}");
    assert!(fixture.content("meta") == vote);
}

#[test]
fn files_that_hold_nothing_yet_are_used_without_force() {
    for metadata in ["internal", "DIR/meta"] {
        let fixture = Fixture::new(metadata);
        std::fs::write(fixture.path("data"), "").expect("written");
        let meta = std::fs::File::create(fixture.path("meta")).expect("made");
        meta.set_len(64 << 20).expect("sparse");
        fixture.create(Content::New, Force::NotGiven).expect("nothing is lost");
    }
}

#[test]
fn metadata_whose_making_was_cut_short_is_made_again_without_force_and_a_byte_in_the_middle_of_a_file_counts()
{
    let fixture = Fixture::new("DIR/meta");
    let mut half_made = vec![0; 4 << 20];
    std::fs::write(fixture.path("meta"), &half_made).expect("written");
    fixture.create(Content::New, Force::NotGiven).expect("only zeroes are there");

    half_made[(2 << 20) + 5] = 1;
    std::fs::write(fixture.path("meta"), &half_made).expect("written");
    let (status, text) = fixture.create(Content::New, Force::NotGiven).expect_err("refused");
    assert!(status == 11 && text.contains("a file of something else"), "{text}");
    assert!(fixture.content("meta") == half_made);
}

#[test]
fn internal_metadata_that_is_given_up_for_separate_metadata_never_comes_back() {
    let fixture = Fixture::new("internal");
    fixture.create(Content::Zeroed, Force::NotGiven).expect("made");
    fixture.configure("DIR/meta");
    let (_, text) = fixture.create(Content::Zeroed, Force::NotGiven).expect_err("refused");
    assert!(text.contains("data holds twinblk metadata"), "{text}");
    fixture.create(Content::Zeroed, Force::Given).expect("by force");
    fixture.configure("internal");
    assert!(fixture.find_superblock().is_none(), "the old area would be started from");
    // Nothing of it is left to be discarded.
    fixture.create(Content::New, Force::NotGiven).expect("made anew");
}
