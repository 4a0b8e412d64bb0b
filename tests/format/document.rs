//! docs/FORMAT.md says the same as the code.

use replicator::layout::BYTE_TABLES;
use replicator::layout::format_version::HISTORY;

const DOCUMENT: &str = include_str!("../../docs/FORMAT.md");

/// Cells of the table under the first line that starts with `heading`, without its two head lines.
fn table_under(heading: &str) -> Vec<Vec<String>> {
    let lines = DOCUMENT.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
    let rows = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(2).map(cells).collect()
}

#[test]
fn every_byte_table_of_the_document_is_that_of_the_code() {
    for (name, fields) in BYTE_TABLES {
        let documented = table_under(&format!("### `{name}`"));
        assert_eq!(documented.len(), fields.len(), "{name}");
        for (row, field) in documented.iter().zip(*fields) {
            let in_code = [field.offset.to_string(), field.bytes.to_string(), format!("`{}`", field.name)];
            assert_eq!(row[..3], in_code, "{name}");
        }
    }
}

#[test]
fn every_field_of_a_structure_follows_the_one_before() {
    for (name, fields) in BYTE_TABLES {
        let mut end = 0;
        for field in *fields {
            assert_eq!(field.offset, end, "{name}.{}", field.name);
            end += field.bytes;
        }
        let heading = format!("### `{name}` ({end} bytes)");
        assert!(DOCUMENT.lines().any(|line| line == heading), "{heading}");
    }
}

#[test]
fn the_history_of_the_document_is_that_of_the_code() {
    let documented = table_under("## Versions");
    let in_code = HISTORY.iter().map(|line| vec![line.version.to_string(), line.change.to_owned()]);
    assert!(documented.into_iter().eq(in_code));
}
