//! What the host must give.

use std::net::ToSocketAddrs;
use std::process::Command;

use crate::harness::{Cluster, RESOURCE, Settings, TWINBLK, Voter};

/// Runs its arguments with io_uring forbidden, as containers do: the system call io_uring_setup (425) fails with EPERM.
const WITHOUT_IO_URING: &str = r#"
import ctypes, os, struct, sys
LOAD_NUMBER, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7fff0000, 0x00050001
steps = [(LOAD_NUMBER, 0, 0, 0), (IF_EQUAL, 0, 1, 425), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no new privileges"
assert libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) == 0, "seccomp"
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_host_without_io_uring_is_refused_in_words_and_not_by_an_abort() {
    let cluster = Cluster::make(&Settings::default());
    let folder = |voter: Voter| cluster.run_dir(voter).to_str().expect("plain").to_owned();
    let (a, tiebreaker) = (folder(Voter::A), folder(Voter::Tiebreaker));
    let commands: [&[&str]; 3] = [
        &["run", RESOURCE, "--node", "a", "--config-dir", &a, "--run-dir", &a],
        &["tiebreaker", RESOURCE, "--config-dir", &tiebreaker, "--run-dir", &tiebreaker],
        &["demo", "--seconds", "1", "--kills", "0"],
    ];
    for command in commands {
        let mut python = Command::new("/usr/bin/python3");
        let output = python.args(["-c", WITHOUT_IO_URING, TWINBLK]).args(command).output();
        let output = output.expect("python3 is in packages.txt");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("io_uring cannot be used here: Operation not permitted"), "{said}");
        assert!(said.contains("kernel.io_uring_disabled"), "{said}");
    }
}

/// The configuration of A says that its own name stands for loopback, and that the other voters live elsewhere.
#[test]
fn a_node_whose_name_stands_for_loopback_does_not_wait_in_vain_for_peers_from_elsewhere() {
    let found = ("localhost", 1).to_socket_addrs().expect("every host has this name");
    assert!(found.into_iter().all(|address| address.ip().is_loopback()));
    let mut cluster = Cluster::make(&Settings::default());
    for voter in [Voter::A, Voter::Tiebreaker] {
        let file = cluster.run_dir(voter).join(format!("{RESOURCE}.toml"));
        let mut text = std::fs::read_to_string(&file).expect("there");
        for other in Voter::ALL {
            let host = if other == voter { "localhost" } else { "192.0.2.2" };
            let port = cluster.port(other);
            text = text.replace(&format!("127.0.0.1:{port}"), &format!("{host}:{port}"));
        }
        std::fs::write(&file, text).expect("written");
        cluster.start_process(voter);
        let status = cluster.wait_for_end(voter);
        let said = cluster.logged(voter);
        assert!(!status.success() && said.contains("`localhost` stands for"), "{said}");
    }
}
