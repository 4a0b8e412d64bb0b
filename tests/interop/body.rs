//! What each client does with an export. Knows nothing of twinblk but the address, the size and the refusal of a
//! Secondary.

use std::path::PathBuf;

use replicator::prng::Prng;

use crate::tools;

/// An export under test.
#[derive(Clone, Debug)]
pub struct Export {
    /// Where it is served.
    pub uri: String,
    /// Its size.
    pub size_bytes: usize,
    /// Where files may be made.
    pub scratch: PathBuf,
    /// Where it is not served.
    pub secondary_uri: String,
}

impl Export {
    fn file(&self, name: &str) -> String {
        self.scratch.join(name).to_str().expect("temporary folders have plain names").to_owned()
    }

    /// A file as large as the export: random, with a hole and a run of zeroes.
    fn image(&self, seed: u64) -> String {
        let mut chance = Prng::new(seed);
        let mut bytes = vec![0; self.size_bytes];
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&chance.draw().to_le_bytes());
        }
        let quarter = self.size_bytes / 4;
        bytes[quarter..2 * quarter].fill(0);
        bytes[3 * quarter + 1000..3 * quarter + 9000].fill(0);
        let file = self.file(&format!("image-{seed}"));
        std::fs::write(&file, &bytes).expect("written");
        file
    }
}

/// nbdinfo: size, flags, block sizes, name.
pub fn information(export: &Export) {
    let said = tools::expect("nbdinfo", &["--json", &export.uri]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let found = &said["exports"][0];
    assert_eq!(said["protocol"], "newstyle-fixed", "{said:#}");
    assert_eq!(said["structured"], true, "{said:#}");
    assert_eq!(found["export-size"], export.size_bytes, "{said:#}");
    assert_eq!(found["block_size_minimum"], 1, "{said:#}");
    assert_eq!(found["block_size_preferred"], 4096, "{said:#}");
    assert_eq!(found["block_size_maximum"], 32 << 20, "{said:#}");
    assert_eq!(found["is_read_only"], false, "{said:#}");
    for flag in ["cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"] {
        assert_eq!(found[format!("can_{flag}")], true, "can_{flag}: {said:#}");
    }
    assert!(found["contexts"].as_array().is_some_and(|all| all.iter().any(|one| one == "base:allocation")));
    let list = tools::expect("nbdinfo", &["--list", "--json", &export.uri]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["exports"].as_array().map(Vec::len), Some(1), "{list:#}");
    assert_eq!(list["exports"][0]["export-name"], "demo", "{list:#}");
}

/// nbdinfo on a Secondary: nothing is listed, nothing is opened.
pub fn secondary_by_nbdinfo(export: &Export) {
    let listed = tools::run("nbdinfo", &["--list", &export.secondary_uri]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(!listed.contains("export="), "{listed}");
    tools::expect_failure("nbdinfo", &[&export.secondary_uri]);
}

/// qemu-img on a Secondary: the reason reaches the user.
pub fn secondary_by_qemu_img(export: &Export) {
    let said = tools::expect_failure("qemu-img", &["info", &export.secondary_uri]);
    assert!(said.contains("demo is Secondary on b; Primary is a"), "{said}");
}

/// nbdcopy: in and out, by several connections, and equal.
pub fn copies(export: &Export) {
    for (seed, connections) in [(1, "--connections=4"), (2, "--connections=1")] {
        let image = export.image(seed);
        let back = export.file("back");
        tools::expect("nbdcopy", &[connections, "--flush", &image, &export.uri]);
        tools::expect("nbdcopy", &[connections, &export.uri, &back]);
        tools::expect("cmp", &[&image, &back]);
    }
}

/// A script for libnbd's Python module.
pub fn script(export: &Export, name: &str) {
    let script = format!("{}/tests/interop/{name}", env!("CARGO_MANIFEST_DIR"));
    let common = format!("{}/tests/interop/common.py", env!("CARGO_MANIFEST_DIR"));
    let variables = format!("uri = '{}'; size = {}", export.uri, export.size_bytes);
    let load = |file: &str| format!("exec(compile(open('{file}').read(), '{file}', 'exec'), globals())");
    let program = format!("{variables}\n{}\n{}", load(&common), load(&script));
    let said = tools::expect(tools::PYTHON, &["-c", &program]);
    assert!(said.ends_with("done\n"), "the script did not come to its end: {said}");
}

/// qemu-img: convert into and out of the export, compare, map.
pub fn images(export: &Export) {
    let image = export.image(3);
    tools::expect("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &image, &export.uri]);
    tools::expect("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &export.uri]);
    let map = tools::expect("qemu-img", &["map", "--output=json", "-f", "raw", &export.uri]);
    let map: serde_json::Value = serde_json::from_str(&map).expect("JSON");
    let extents = map.as_array().expect("a list");
    let mapped: u64 = extents.iter().filter_map(|extent| extent["length"].as_u64()).sum();
    assert_eq!(usize::try_from(mapped), Ok(export.size_bytes), "{map:#}");
    let back = export.file("back.qcow2");
    tools::expect("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &export.uri, &back]);
    tools::expect("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &back, &image]);
}

/// qemu-io: patterns at odd places, zeroes, discards, flushes.
pub fn patterns(export: &Export) {
    let commands = [
        "write -P 0xab 0 64k",
        "write -f -P 0xcd 4608 1024",
        "read -P 0xab 0 4608",
        "read -P 0xcd 4608 1024",
        "read -P 0xab 5632 59904",
        "aio_write -P 0x11 1M 2M",
        "aio_write -P 0x22 4M 1M",
        "aio_flush",
        "flush",
        "read -P 0x11 1M 2M",
        "write -z 1M 512k",
        "read -P 0 1M 512k",
        "read -P 0x11 1536k 1536k",
        "write -z -u 4M 512k",
        "read -P 0 4M 512k",
        "discard 8M 1M",
        "write -P 0x33 33554000 777216",
        "read -P 0x33 33554000 777216",
    ];
    let mut args = vec!["-f", "raw"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(&export.uri);
    let said = tools::expect("qemu-io", &args);
    assert!(!said.contains("failed"), "{said}");
}

/// fio: random writes of all sizes, verified by checksum.
pub fn verified_load(export: &Export) {
    let uri = format!("--uri={}", export.uri);
    // Without a file of its state, which fio would leave in the current folder.
    let common = [
        "--ioengine=nbd",
        &uri,
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--group_reporting",
    ];
    let jobs: [&[&str]; 3] = [
        &[
            "--name=mixed",
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--bs_unaligned",
            "--size=48M",
            "--iodepth=32",
        ],
        &[
            "--name=small",
            "--rw=randwrite",
            "--bs=4k",
            "--size=32M",
            "--iodepth=1",
            "--fsync=16",
            "--io_size=8M",
        ],
        &[
            "--name=many",
            "--rw=randrw",
            "--bs=8k",
            "--size=16M",
            "--iodepth=8",
            "--numjobs=4",
            "--offset_increment=16M",
        ],
    ];
    for job in jobs {
        let args: Vec<&str> = job.iter().copied().chain(common).collect();
        tools::expect("fio", &args);
    }
}
