//! A rescue image in words and as JSON: what a node discarded after a split brain, and where each block of it lies.
//!
//! Rule: the ranges are read in parts and held against the last block before any of them is believed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use replicator::layout::rescue_image::{
    RangeTotals, RescueImage, RescueImageError, RescuedRange, range_reads,
};
use replicator::units::{BLOCK_BYTES, BLOCK_SIZE};
use serde_json::{Value, json};

use crate::cli::exit::{Ended, Status};
use crate::clock;
use crate::config_file::values::show_size;

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// The image in this file, if its last block says that it is one, whole or damaged.
pub fn recognise(file: &File, end: u64) -> Option<Result<RescueImage, RescueImageError>> {
    let mut block = vec![0; BLOCK_SIZE];
    file.read_exact_at(&mut block, end.checked_sub(BLOCK_BYTES)?).ok()?;
    let parsed = RescueImage::parse(&block);
    (parsed != Err(RescueImageError::Magic)).then_some(parsed)
}

/// Shows an image: every range, in order.
pub fn show(path: &Path, file: &File, end: u64, image: &RescueImage, as_json: bool) -> anyhow::Result<()> {
    let damaged = |what: String| Ended::with(Status::Failed, format!("{}: {what}", path.display()));
    if image.file_bytes() != end {
        let wanted = image.file_bytes();
        return Err(damaged(format!(
            "it has {end} bytes, and {wanted} by its last block: it was cut or added to"
        )));
    }
    let mut read = RangeTotals::default();
    for_each_range(file, image, &mut read, |_| Ok(())).map_err(|error| damaged(error.to_string()))?;
    image.check_ranges(&read).map_err(|error| damaged(error.to_string()))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match as_json {
        true => write_json(&mut out, path, file, image)?,
        false => write_text(&mut out, path, file, image)?,
    }
    Ok(out.flush()?)
}

fn for_each_range(
    file: &File,
    image: &RescueImage,
    totals: &mut RangeTotals,
    mut each: impl FnMut(RescuedRange) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (offset, length) in range_reads(image) {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset)?;
        for range in totals.parse(image.head.volume_bytes, &bytes)? {
            each(range)?;
        }
    }
    Ok(())
}

fn write_text(out: &mut impl Write, path: &Path, file: &File, image: &RescueImage) -> anyhow::Result<()> {
    let head = &image.head;
    writeln!(out, "rescue image: {}", path.display())?;
    writeln!(
        out,
        "resource: {}   volume: {}   discarded on {} ({}) in favour of {} ({})",
        head.resource,
        show_size(head.volume_bytes),
        head.node.1,
        head.node.0,
        head.peer.1,
        head.peer.0
    )?;
    writeln!(out, "begun: {}", clock::utc(image.begun))?;
    writeln!(
        out,
        "writes {} to {}, after the fork behind generation {}",
        head.fork.next(),
        head.end,
        head.common
    )?;
    if head.is_damaged {
        writeln!(out, "the disk was damaged: blocks may be of different moments")?;
    }
    writeln!(out, "lineage:")?;
    for generation in head.lineage.generations() {
        let granted = if generation.granted { "granted" } else { "not granted" };
        writeln!(
            out,
            "  {} from write {} in term {}, {granted}",
            generation.id, generation.first_lsn, generation.term
        )?;
    }
    let bytes = image.totals.blocks * BLOCK_BYTES;
    writeln!(out, "ranges: {} of {bytes} bytes in all", image.totals.ranges)?;
    writeln!(out, "  {:>16} {:>14}  write", "byte", "bytes")?;
    for_each_range(file, image, &mut RangeTotals::default(), |range| {
        let write = range.lsn.map_or("not known".to_owned(), |lsn| lsn.to_string());
        let (offset, length) = (range.blocks.byte_offset(), range.blocks.bytes());
        Ok(writeln!(out, "  {offset:>16} {length:>14}  {write}")?)
    })
}

fn write_json(out: &mut impl Write, path: &Path, file: &File, image: &RescueImage) -> anyhow::Result<()> {
    let mut ranges: Vec<Value> = Vec::new();
    for_each_range(file, image, &mut RangeTotals::default(), |range| {
        let (offset, length) = (range.blocks.byte_offset(), range.blocks.bytes());
        ranges.push(json!({ "offset": offset, "bytes": length, "lsn": range.lsn }));
        Ok(())
    })?;
    let head = &image.head;
    let value = json!({
        "schema": SCHEMA,
        "path": path,
        "rescue": {
            "resource": head.resource.as_str(),
            "volume-bytes": head.volume_bytes,
            "node": head.node.0,
            "node-name": head.node.1,
            "peer": head.peer.0,
            "peer-name": head.peer.1,
            "begun": clock::utc(image.begun),
            "common": head.common,
            "fork": head.fork,
            "end": head.end,
            "damaged": head.is_damaged,
            "lineage": head.lineage,
            "bytes": image.totals.blocks * BLOCK_BYTES,
            "ranges": ranges,
        },
    });
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?)
}

#[cfg(test)]
mod tests {
    use replicator::generation::lineage::Lineage;
    use replicator::layout::rescue_image::RescueHead;
    use replicator::layout::superblock::ResourceName;
    use replicator::units::{BlockRange, GenerationId, Lsn, NodeId};

    use super::*;

    /// An image of one range, as the daemon leaves it.
    fn image_file(path: &Path) -> RescueImage {
        let head = RescueHead {
            resource: ResourceName::parse("mail").expect("a name"),
            volume_bytes: 1 << 20,
            node: (NodeId(1), "beta".to_owned()),
            peer: (NodeId(0), "alpha".to_owned()),
            common: GenerationId::ZEROED,
            fork: Lsn(98),
            end: Lsn(120),
            is_damaged: true,
            lineage: Lineage::zeroed(),
        };
        let mut totals = RangeTotals::default();
        let ranges = totals.encode(&[
            RescuedRange { blocks: BlockRange::new(3, 2), lsn: Some(Lsn(99)) },
            RescuedRange { blocks: BlockRange::new(9, 1), lsn: None },
        ]);
        let image = RescueImage { head, begun: 1_763_671_515, totals };
        let file = File::create(path).expect("created");
        file.write_all_at(&ranges, 1 << 20).expect("written");
        file.write_all_at(&image.encode(), image.last_block_offset()).expect("written");
        image
    }

    #[test]
    fn an_image_is_recognised_and_every_range_of_it_is_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rescue");
        image_file(&path);
        let file = File::open(&path).expect("open");
        let end = file.metadata().expect("there").len();
        let image = recognise(&file, end).expect("one").expect("whole");
        let mut text = Vec::new();
        write_text(&mut text, &path, &file, &image).expect("written");
        let text = String::from_utf8(text).expect("text");
        for part in [
            "resource: mail   volume: 1MiB   discarded on beta (node 1) in favour of alpha (node 0)",
            "begun: 2025-11-20T20:45:15Z",
            "writes 99 to 120",
            "damaged",
            "ranges: 2 of 12288 bytes in all",
            "             12288           8192  99",
            "             36864           4096  not known",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let mut value = Vec::new();
        write_json(&mut value, &path, &file, &image).expect("written");
        let value: Value = serde_json::from_slice(&value).expect("JSON");
        assert_eq!(value["rescue"]["ranges"][0], json!({"offset": 12288, "bytes": 8192, "lsn": 99}));
        assert_eq!(value["rescue"]["ranges"][1]["lsn"], Value::Null);
        assert_eq!(value["rescue"]["end"], 120);
    }

    #[test]
    fn an_image_that_was_cut_or_damaged_is_called_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rescue");
        let image = image_file(&path);
        let file = File::options().read(true).write(true).open(&path).expect("open");
        let end = image.file_bytes();
        assert!(recognise(&file, end - BLOCK_BYTES).is_none(), "without its last block it is no image");
        file.write_all_at(&[1], (1 << 20) + 8).expect("damaged");
        let error = show(&path, &file, end, &image, false).expect_err("damaged").to_string();
        assert!(error.contains("ranges"), "{error}");
        file.write_all_at(&[7], end - BLOCK_BYTES + 100).expect("damaged");
        assert!(matches!(recognise(&file, end), Some(Err(RescueImageError::Checksum { .. }))));
    }
}
