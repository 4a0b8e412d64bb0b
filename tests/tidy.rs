//! Keeps the tree and its documents true: what a document names exists, tables say what the code says, and no file or
//! function grows out of hand. Reads sources as text; runs nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use replicator::generation::rule::SyncRule;
use replicator::promotion::voting::GRANT_ROWS;

/// Most lines of a source file.
const FILE_LINES_MAX: usize = 600;
/// Most lines of a function outside tests.
const FUNCTION_LINES_MAX: usize = 70;
/// Folders whose sources are measured.
const MEASURED: [&str; 6] = ["src", "replicator", "nbd-server", "sim", "bench", "tests"];
/// Documents that name code as `file.rs::function`.
const MAPS: [&str; 2] = ["docs/ARCHITECTURE.md", "docs/INVARIANTS.md"];
/// A path in a document is relative to this folder, unless it starts with one of [`CRATES`].
const CORE: &str = "replicator/src";
const CRATES: [&str; 7] = ["src", "replicator", "nbd-server", "sim", "bench", "tests", "fuzz"];
/// What each foreign program that the tests run comes in.
const PACKAGE_OF: [(&str, &str); 8] = [
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("/usr/bin/python3", "python3-libnbd"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("fio", "fio"),
    ("timeout", "coreutils"),
    ("cmp", "diffutils"),
];
/// Packages that every Debian has.
const ESSENTIAL: [&str; 2] = ["coreutils", "diffutils"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file under `folder` that ends in `ending`, relative to the root, sorted.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path.strip_prefix(root()).expect("it is under the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<PathBuf> {
    MEASURED.iter().flat_map(|folder| files(folder, ".rs")).collect()
}

/// What stands between back quotes in `document`, outside of code blocks.
fn quoted(document: &str) -> Vec<&str> {
    let lines = document.lines().filter(|line| !line.starts_with("    ") && !line.starts_with("```"));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The cells of the table under `heading`, without its two head lines.
fn table_under<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let lines = document.lines().skip_while(|line| *line != heading).skip(1);
    let rows = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The sources that a document may mean by `path`: exactly one, or a pattern's matches.
fn meant_by(path: &str) -> Vec<PathBuf> {
    let first = path.split('/').next().unwrap_or_default();
    let whole = if CRATES.contains(&first) { path.to_owned() } else { format!("{CORE}/{path}") };
    if let Some((folder, ending)) = whole.split_once('*') {
        return files(folder, ending);
    }
    if root().join(&whole).exists() {
        return vec![whole.into()];
    }
    // Where a file's folder is clear from the text, documents leave it out.
    let ending = format!("/{path}");
    let mut all = files(CORE, ".rs");
    all.retain(|source| source.to_string_lossy().ends_with(&ending));
    all
}

fn has_function(source: &str, name: &str) -> bool {
    source
        .match_indices(&format!("fn {name}"))
        .any(|(at, found)| source[at + found.len()..].starts_with(['(', '<']))
}

/// A name that can only be one of the code's functions or modules.
fn is_code_name(word: &str) -> bool {
    let is_snake = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    word.contains('_') && word.bytes().all(is_snake)
}

#[test]
fn every_file_and_function_that_a_map_names_exists() {
    let everything: Vec<(PathBuf, String)> =
        sources().into_iter().map(|path| (path.clone(), read(&path))).collect();
    let is_module = |word: &str| {
        everything
            .iter()
            .any(|(path, _)| path.with_extension("").components().any(|part| part.as_os_str() == word))
    };
    let mut wrong = Vec::new();
    for map in MAPS {
        let document = read(map);
        for words in quoted(&document) {
            if let Some((path, function)) = words.split_once(".rs::") {
                let found = meant_by(&format!("{path}.rs"));
                if found.len() != 1 || !has_function(&read(&found[0]), function) {
                    wrong.push(format!("{map}: {words}"));
                }
            } else if words.ends_with(".rs") || words.contains('/') && !words.contains(' ') {
                if meant_by(words.trim_end_matches('/')).is_empty() {
                    wrong.push(format!("{map}: {words}"));
                }
            } else if is_code_name(words) {
                let is_function = everything.iter().any(|(_, text)| has_function(text, words));
                if !is_function && !is_module(words) {
                    wrong.push(format!("{map}: {words}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "named but not there:\n{}", wrong.join("\n"));
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut documents = files("docs", ".md");
    documents.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from));
    let mut wrong = Vec::new();
    for path in documents {
        let document = read(&path);
        for (at, _) in document.match_indices("](") {
            let target = document[at + 2..].split([')', '#']).next().unwrap_or_default();
            let is_local = !target.is_empty() && !target.contains("://");
            if is_local && !root().join(path.parent().expect("a file")).join(target).exists() {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "dead links:\n{}", wrong.join("\n"));
}

#[test]
fn every_page_that_advice_names_exists() {
    for path in sources() {
        for (at, _) in read(&path).match_indices("\"docs/") {
            let text = read(&path);
            let page = text[at + 1..].split('"').next().unwrap_or_default();
            let is_example = page == "docs/x.md";
            assert!(is_example || root().join(page).exists(), "{}: {page}", path.display());
        }
    }
}

#[test]
fn units_start_the_program_where_the_documents_install_it() {
    let units = files("cluster/systemd", ".service");
    assert!(units.len() > 1, "only {units:?}");
    for document in ["README.md", "docs/operating/install.md"] {
        let text = read(document);
        let lines = text.lines().map(str::trim);
        let installed: Vec<&str> = lines
            .filter_map(|line| line.strip_prefix("install -m 755 target/release/twinblk ")?.split(' ').next())
            .collect();
        assert_eq!(installed.len(), 1, "{document}");
        for unit in &units {
            let text = read(unit);
            let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
            assert_eq!(start.split(' ').next(), Some(installed[0]), "{} and {document}", unit.display());
        }
        assert!(text.contains("install -m 644 cluster/systemd/*.service /etc/systemd/system/"), "{document}");
    }
}

#[test]
fn every_document_names_the_same_oldest_kernel() {
    let source = read("src/data_plane/ring.rs");
    let oldest = source.split("needs Linux ").nth(1).expect("the refusal").split(' ').next().expect("a word");
    let sources = sources().into_iter().filter(|path| path.starts_with("src"));
    let documents = files("docs", ".md").into_iter().chain([PathBuf::from("README.md")]);
    let mut named = 0;
    for path in documents.chain(sources) {
        let text = read(&path);
        let versions =
            text.split("Linux ").skip(1).filter(|rest| rest.starts_with(|next: char| next.is_ascii_digit()));
        for rest in versions {
            assert!(rest.starts_with(&format!("{oldest} or ")), "{}: Linux {:.20}", path.display(), rest);
            named += 1;
        }
    }
    assert!(named > 3, "only {named} times");
}

#[test]
fn no_file_is_longer_than_the_limit() {
    let long = sources().into_iter().map(|path| (read(&path).lines().count(), path));
    let long: Vec<_> = long.filter(|(lines, _)| *lines > FILE_LINES_MAX).collect();
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn no_function_is_longer_than_the_limit() {
    let (mut long, mut measured) = (Vec::new(), 0);
    for path in sources().into_iter().filter(|path| !is_test(path)) {
        let functions = functions(without_tests(&blanked(&read(&path))));
        measured += functions.len();
        let functions = functions.into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
        long.extend(functions.map(|(name, lines)| format!("{}: {name} has {lines}", path.display())));
    }
    assert!(measured > 1000, "only {measured} functions were found");
    assert!(long.is_empty(), "longer than {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}

/// Whether a source holds nothing but tests.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// The part before the module of tests, which stands last.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

/// Name and length of every function with a body. Takes text without comments and literals.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("fn ") {
        let is_word =
            at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric() && text.as_bytes()[at - 1] != b'_';
        let name: String = text[at + 3..]
            .chars()
            .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
            .collect();
        if !is_word || name.is_empty() {
            continue;
        }
        if let Some(end) = end_of_body(&text[at..]) {
            found.push((name, text[at..at + end].lines().count()));
        }
    }
    found
}

/// Where the first body in braces ends; nothing if a semicolon comes first.
fn end_of_body(text: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b';' if braces == 0 && brackets == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces == 0 && brackets == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The source with blanks instead of comments and of what stands in literals, line by line the same.
fn blanked(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let length = match next {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '"' => 1 + end_of_string(&rest[1..]),
            'r' if !before.is_alphanumeric() || before == 'b' => raw_string(rest).unwrap_or(0),
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if length == 0 {
            out.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
        before = next;
    }
    out
}

/// Length of a string's text and its closing quote.
fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string that `text` starts with.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    text[1 + hashes..].starts_with('"').then_some(())?;
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map(|at| body + at + end.len())
}

/// Length of the character literal that `text` starts with; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let mut letters = text.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        letters.next()?;
        return letters.find(|(_, letter)| *letter == '\'').map(|(at, _)| at + 1);
    }
    letters.next().filter(|(_, letter)| *letter == '\'').map(|(at, _)| at + 1)
}

#[test]
fn the_measure_of_functions_is_not_fooled_by_literals_and_comments() {
    let source = "fn one() {\n    let a = \"}\"; // }\n    let b = '}'; let c: &'static str = r#\"}\"#;\n}\n\
                  trait T {\n    fn two(x: [u8; 2]);\n    fn three() -> u8\n    where\n        Self: Sized,\n    {\n        b'\\''\n    }\n}\n";
    let found = functions(&blanked(source));
    assert_eq!(found, [("one".to_owned(), 4), ("three".to_owned(), 6)]);
}

#[test]
fn every_fuzz_target_is_in_the_manifest() {
    let manifest = read("fuzz/Cargo.toml");
    let listed = manifest.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
    let listed: BTreeSet<_> = listed.map(|path| Path::new("fuzz").join(path)).collect();
    assert_eq!(listed, files("fuzz/fuzz_targets", ".rs").into_iter().collect());
}

#[test]
fn the_rules_of_the_verdict_are_those_of_the_code() {
    let document = read("docs/STATES.md");
    let rows = table_under(&document, "## Rules of the verdict");
    let in_code = SyncRule::IN_ORDER;
    let in_code =
        in_code.map(|rule| vec![rule.to_string(), rule.condition().into(), rule.consequence().into()]);
    assert_eq!(rows, in_code);
}

#[test]
fn the_reasons_not_to_vote_are_those_of_the_code() {
    let document = read("docs/STATES.md");
    let rows = table_under(&document, "## Why a voter says no");
    let documented: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(documented, GRANT_ROWS.map(|row| row.name));
}

#[test]
fn every_attack_names_a_rule_and_tests_that_exist() {
    let document = read("docs/ATTACKS.md");
    let everything: String = sources().iter().map(read).collect();
    let tests: BTreeSet<&str> = everything
        .split("#[test]\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("fn ")?.1.split(['(', '<']).next())
        .collect();
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(rows.len() > 50, "only {} rows", rows.len());
    for row in rows.iter().filter(|row| !row.ends_with("| tests |")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let named = quoted(cells.last().expect("a cell"));
        assert!(!named.is_empty() && cells.iter().all(|cell| !cell.is_empty()), "{row}");
        for test in named {
            assert!(tests.contains(test), "{test} is no test");
        }
    }
    let rules = table_under(&document, "## Rows of the verdict");
    assert_eq!(
        rules.iter().map(|row| row[0].to_owned()).collect::<Vec<_>>(),
        SyncRule::IN_ORDER.map(|rule| rule.to_string())
    );
}

#[test]
fn the_states_of_advice_are_those_of_the_code() {
    let source = read("replicator/src/replica/status.rs");
    let ends = [
        "-failed",
        "-lost",
        "-alone",
        "-connected",
        "-up",
        "-target",
        "-inconsistent",
        "-outdated",
        "-consistent",
        "-voter",
        "-new",
    ];
    let literals = source.split('"').skip(1).step_by(2);
    let is_state = |text: &&str| {
        ["frozen", "diskless", "suspended-no-data"].contains(text)
            || !text.contains(' ') && ends.iter().any(|end| text.ends_with(end))
    };
    let in_code: BTreeSet<&str> = literals.filter(is_state).collect();
    let document = read("docs/operating/monitor.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<&str> = rows.filter(|word| *word != "status").collect();
    assert_eq!(documented, in_code);
    assert_eq!(
        in_code.len(),
        source.matches("state: \"").count() + source.matches("                \"disk-").count()
    );
}

#[test]
fn the_reasons_of_refused_promotions_are_names_of_the_code() {
    let document = read("docs/operating/failover.md");
    let sources: String = files("replicator/src/promotion", ".rs").iter().map(read).collect();
    let rows = table_under(&document, "## A promotion is refused");
    assert!(rows.len() > 5, "only {rows:?}");
    for name in rows.iter().map(|row| row[0].trim_matches('`')) {
        assert!(sources.contains(&format!("\"{name}\"")), "{name}");
    }
}

#[test]
fn unsafe_code_is_only_where_the_kernel_uses_our_memory() {
    const UNSAFE: [&str; 2] = ["src/data_plane/buffers.rs", "src/data_plane/ring.rs"];
    let is_word = |text: &str, at: usize| {
        let is_letter =
            |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        !is_letter(text[..at].chars().next_back()) && !is_letter(text[at + 6..].chars().next())
    };
    let has_unsafe = |path: &PathBuf| {
        let text = blanked(&read(path));
        text.match_indices("unsafe").any(|(at, _)| is_word(&text, at))
    };
    let found: Vec<PathBuf> = sources().into_iter().filter(has_unsafe).collect();
    assert_eq!(found, UNSAFE.map(PathBuf::from));
}

#[test]
fn every_program_that_tests_run_is_in_the_package_list() {
    let listed = read("packages.txt");
    let listed: BTreeSet<&str> = listed.lines().filter(|line| !line.starts_with('#')).collect();
    let mut tools = BTreeSet::new();
    let calls = [
        "with_pair(\"",
        "is_there(\"",
        "tools::expect(\"",
        "expect_failure(\"",
        "run(\"",
        "Command::new(\"",
        "PYTHON: &str = \"",
    ];
    for path in files("tests/interop", ".rs") {
        let text = read(&path);
        for call in calls {
            tools.extend(
                text.split(call).skip(1).filter_map(|rest| rest.split('"').next().map(str::to_owned)),
            );
        }
    }
    assert!(tools.len() > 5, "only {tools:?}");
    for tool in tools {
        let package = PACKAGE_OF.iter().find(|(name, _)| *name == tool).map(|(_, package)| *package);
        let package = package.unwrap_or_else(|| panic!("which package is {tool} in? Say so in PACKAGE_OF"));
        assert!(
            listed.contains(package) || ESSENTIAL.contains(&package),
            "{package} ({tool}) is not in packages.txt"
        );
    }
}
