//! Why a process of a resource does not start: the exit status and what to type, for every reason.
//!
//! Rule: 11 if somebody else stands in the way (another process holds the socket, the disk or the vote), 10 if the
//! configuration and what is there do not fit, 1 if something is broken.

use super::exit::{Ended, Status};
use crate::config_file::values::SOCKET_PATH_BYTES_MAX;
use crate::control_plane::RunError;
use crate::control_plane::listen::ListenError;
use crate::control_plane::tiebreaker::TiebreakerError;
use crate::control_plane::tiebreaker::state_file::StateError;
use crate::data_plane::backing_device::device::DeviceError;
use crate::data_plane::backing_device::start::StartError;
use crate::data_plane::spawn::SpawnError;

/// Exit status and, where more can be said than the reason says, what to type.
type Ruling = (Status, Option<String>);

fn refused(action: String) -> Ruling {
    (Status::Refused, Some(action))
}

fn configuration(action: &str) -> Ruling {
    (Status::Configuration, Some(action.to_owned()))
}

fn failed() -> Ruling {
    (Status::Failed, None)
}

fn ended(reason: &dyn std::fmt::Display, (status, action): Ruling) -> anyhow::Error {
    match action {
        Some(action) => Ended::advised(status, reason.to_string(), action),
        None => Ended::with(status, reason.to_string()),
    }
}

/// `twinblk run` has ended for this reason.
pub fn of_daemon(resource: &str, error: &RunError) -> anyhow::Error {
    ended(&format!("{resource}: {error}"), rule_of_run(resource, &format!("run {resource}"), error))
}

/// `twinblk tiebreaker` has ended for this reason.
pub fn of_tiebreaker(resource: &str, error: &TiebreakerError) -> anyhow::Error {
    let ruling = match error {
        TiebreakerError::NotConfigured { .. } => (Status::Configuration, None),
        TiebreakerError::State(error) => rule_of_state(resource, error),
        TiebreakerError::Start(error) => rule_of_run(resource, &format!("tiebreaker {resource}"), error),
    };
    ended(&format!("{resource}: {error}"), ruling)
}

/// A disk is of no use to a command, for this reason.
pub fn of_disk(error: impl Into<StartError>) -> anyhow::Error {
    let error = error.into();
    ended(&error, rule_of_start(&error))
}

fn rule_of_run(resource: &str, command: &str, error: &RunError) -> Ruling {
    match error {
        RunError::Listen(error) => rule_of_listen(resource, command, error),
        RunError::Address { .. } => {
            configuration("write an address of this host, or make its name known here")
        }
        // The name is known here, and that is the trouble.
        RunError::OwnNameIsLoopback { address, .. } => configuration(&format!(
            "write the IP address that peers dial in place of `{}`, in the file of every node; or make /etc/hosts here give it that address",
            address.host
        )),
        RunError::Secret(_) => (Status::Configuration, None),
        RunError::Start(SpawnError::Device(error)) => rule_of_device(error),
        RunError::Start(SpawnError::Start(error)) => rule_of_start(error),
        RunError::Start(SpawnError::Continuity(_) | SpawnError::Loop(_) | SpawnError::Resources(_))
        | RunError::Signal(_)
        | RunError::DataPlane(_)
        | RunError::DataPlaneVanished
        | RunError::StopRefused { .. }
        | RunError::StopTooSlow(_) => failed(),
    }
}

fn rule_of_listen(resource: &str, command: &str, error: &ListenError) -> Ruling {
    match error {
        ListenError::InUse { .. } => refused(format!(
            "`twinblk status {resource}` asks the daemon that runs; end it before another `twinblk {command}`, or give this one paths of its own"
        )),
        ListenError::Tcp { address, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
            refused(format!(
                "`ss -ltnp 'sport = :{}'` says which process has the port; end it, or configure another port",
                address.port()
            ))
        }
        ListenError::NotASocket { .. } => configuration("move the file away, or configure another path"),
        ListenError::NoFolder { .. } => configuration("make the folder, or configure another path"),
        ListenError::Tcp { .. } => {
            configuration("write an address of this host and a port that this user may have")
        }
        ListenError::Unix { .. } => configuration(&format!(
            "write a path that this user may use, of at most {SOCKET_PATH_BYTES_MAX} bytes"
        )),
    }
}

fn rule_of_start(error: &StartError) -> Ruling {
    match error {
        StartError::Device(error) => rule_of_device(error),
        // It says itself what to type.
        StartError::NoMetadata { .. } | StartError::TooFewPeers { .. } => (Status::Configuration, None),
        StartError::OtherResource { .. } | StartError::OtherNode { .. } => configuration(
            "compare `data` and `metadata` of this node, the order of [[node]], and --node with where the metadata was made",
        ),
        StartError::OtherSize { found, .. } => {
            configuration(&format!("write size = \"{found}\"; a volume keeps the size that it was made with"))
        }
        StartError::Superblock { .. } | StartError::BitmapPage { .. } => {
            (Status::Failed, Some("see docs/operating/replace-disk.md".to_owned()))
        }
    }
}

fn rule_of_device(error: &DeviceError) -> Ruling {
    match error {
        DeviceError::InUse { path } => {
            refused(format!("`fuser -v {}` says who uses it; end that first", path.display()))
        }
        DeviceError::TooSmall { .. } | DeviceError::Same { .. } => (Status::Configuration, None),
        DeviceError::Open { .. } => configuration("check the path in the configuration, and who may open it"),
        DeviceError::Kind { .. } | DeviceError::NoDirectIo { .. } | DeviceError::LogicalBlock { .. } => {
            configuration("write the path of another disk")
        }
        DeviceError::Io { .. } => failed(),
    }
}

fn rule_of_state(resource: &str, error: &StateError) -> Ruling {
    match error {
        StateError::Locked { path } => refused(format!(
            "end the tiebreaker that runs: `systemctl stop twinblk-tiebreaker@{resource}`, or see `fuser -v {}`",
            path.display()
        )),
        StateError::Exists { .. } => (Status::Refused, None),
        StateError::Missing { .. } => (Status::Configuration, None),
        StateError::NotOurs { .. } => {
            configuration("write the `state` of this resource, and [[node]] as it was")
        }
        StateError::Refused { .. } | StateError::Io { .. } => failed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::HostPort;

    fn status_and_text(error: &anyhow::Error) -> (u8, String) {
        let ended = error.downcast_ref::<Ended>().expect("an end");
        (ended.status.number(), ended.to_string())
    }

    #[test]
    fn a_name_that_stands_for_loopback_is_not_cured_by_making_it_known() {
        let address = HostPort::parse("alpha:7789").expect("an address");
        let unknown =
            RunError::Address { address: address.clone(), source: std::io::ErrorKind::NotFound.into() };
        assert!(status_and_text(&of_daemon("mail", &unknown)).1.contains("make its name known here"));
        let loopback = RunError::OwnNameIsLoopback { address, found: [127, 0, 1, 1].into() };
        let (status, text) = status_and_text(&of_daemon("mail", &loopback));
        assert_eq!(status, 10);
        assert!(text.contains("`alpha` stands for 127.0.1.1"), "{text}");
        assert!(text.contains("action: write the IP address that peers dial in place of `alpha`"), "{text}");
        assert!(!text.contains("known"), "{text}");
    }

    #[test]
    fn who_stands_in_the_way_is_11_what_does_not_fit_is_10_and_what_is_broken_is_1() {
        let taken = RunError::Listen(ListenError::InUse { path: "/run/twinblk/mail.sock".into() });
        let (status, text) = status_and_text(&of_daemon("mail", &taken));
        assert_eq!(status, 11);
        assert!(text.contains("mail.sock\n  action: `twinblk status mail`"), "{text}");

        let size = StartError::OtherSize { path: "/m".into(), found: 4096, expected: 8192 };
        let (status, text) = status_and_text(&of_daemon("mail", &RunError::Start(size.into())));
        assert_eq!(status, 10);
        assert!(text.contains("write size = \"4096\""), "{text}");

        let locked = TiebreakerError::State(StateError::Locked { path: "/v".into() });
        assert_eq!(status_and_text(&of_tiebreaker("mail", &locked)).0, 11);
        assert_eq!(status_and_text(&of_daemon("mail", &RunError::DataPlaneVanished)).0, 1);
    }
}
