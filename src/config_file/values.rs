//! Values as people write them: sizes, times, addresses, names, paths. One parser each, shared by the
//! configuration file and the command line.
//!
//! Rule: every refusal says what to write instead. Knows nothing of files and lines.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use replicator::units::Span;

/// Longest name of a resource or node, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest path of a Unix socket, bytes: the kernel's limit, its ending zero left out.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What is wrong with a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wrong}; {instead}")]
pub struct BadValue {
    /// What is wrong.
    pub wrong: String,
    /// What to write instead.
    pub instead: String,
}

impl BadValue {
    /// A refusal.
    pub fn new(wrong: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { wrong: wrong.into(), instead: instead.into() }
    }
}

const SIZE_UNITS: [(&str, u32); 10] = [
    ("", 0),
    ("B", 0),
    ("K", 10),
    ("KiB", 10),
    ("M", 20),
    ("MiB", 20),
    ("G", 30),
    ("GiB", 30),
    ("T", 40),
    ("TiB", 40),
];

/// A size in bytes: `4096`, `512MiB`, `100GiB`, `2T`. Units are powers of 1024.
///
/// # Errors
/// The text is no size, or larger than 2^64 bytes.
pub fn parse_size(text: &str) -> Result<u64, BadValue> {
    let (digits, unit) = split_number(text);
    let wrong = || {
        BadValue::new(
            format!("`{text}` is no size"),
            "write a whole number and a unit, for example \"100GiB\"",
        )
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let Some((_, shift)) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(match unit.to_ascii_uppercase().as_str() {
            "KB" | "MB" | "GB" | "TB" => BadValue::new(
                format!("`{unit}` may mean powers of 1000 or of 1024"),
                format!(
                    "write \"{digits}{}iB\", sizes are in powers of 1024",
                    unit[..1].to_ascii_uppercase()
                ),
            ),
            _ => wrong(),
        });
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| BadValue::new(format!("`{text}` is beyond 2^64 bytes"), "write less"))
}

/// A size for people: the largest unit that divides it, for example `100GiB`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units.iter().find(|(_, shift)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    fits.map_or_else(|| format!("{bytes} bytes"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

const TIME_UNITS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000)];

/// A length of time: `500ms`, `3s`, `2min`, `1h`.
///
/// # Errors
/// The text is no length of time.
pub fn parse_span(text: &str) -> Result<Span, BadValue> {
    let (digits, unit) = split_number(text);
    let wrong = || {
        BadValue::new(
            format!("`{text}` is no length of time"),
            "write a whole number and one of us, ms, s, min, h, for example \"3s\"",
        )
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let (_, factor) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.checked_mul(*factor).map(Span).ok_or_else(wrong)
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Checks the name of a resource: `[a-z0-9][a-z0-9_-]{0,63}`.
///
/// # Errors
/// The text is no such name.
pub fn check_resource_name(name: &str) -> Result<(), BadValue> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let first = name.bytes().next().is_some_and(legal);
    let rest = name.bytes().all(|byte| legal(byte) || byte == b'_' || byte == b'-');
    if first && rest && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(BadValue::new(
        format!("`{name}` is no name of a resource"),
        format!(
            "write at most {NAME_BYTES_MAX} of a-z, 0-9, _ and -, a letter or digit first, for example \"mail\""
        ),
    ))
}

/// Checks the name of a node: what a host name may hold.
///
/// # Errors
/// The text is no such name.
pub fn check_node_name(name: &str) -> Result<(), BadValue> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if name == "tiebreaker" {
        return Err(BadValue::new(
            "`tiebreaker` is the name of the tiebreaker",
            "write the node's host name",
        ));
    }
    if first && name.bytes().all(legal) && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(BadValue::new(
        format!("`{name}` is no name of a node"),
        format!("write the host name: at most {NAME_BYTES_MAX} letters, digits, dots, _ and -"),
    ))
}

/// An absolute path.
///
/// # Errors
/// The path is relative.
pub fn parse_path(text: &str) -> Result<PathBuf, BadValue> {
    if Path::new(text).is_absolute() {
        return Ok(PathBuf::from(text));
    }
    Err(BadValue::new(
        format!("the path `{text}` is relative"),
        "write it from / on: the daemon does not start in your directory",
    ))
}

/// Where a listener is: a host (name or address) and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

impl HostPort {
    /// `HOST:PORT`, an IPv6 address in brackets.
    ///
    /// # Errors
    /// The text is not of that shape.
    pub fn parse(text: &str) -> Result<Self, BadValue> {
        let example = "write HOST:PORT, for example \"10.0.0.1:7789\" or \"[fd00::1]:7789\"";
        let wrong = |what: &str| BadValue::new(format!("`{text}` {what}"), example);
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        let port: u16 = port.parse().map_err(|_| wrong("has no port between 1 and 65535"))?;
        if port == 0 {
            return Err(wrong("has no port between 1 and 65535"));
        }
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(wrong("has no IPv6 address in the brackets")),
            None if host.contains(':') => return Err(wrong("has an IPv6 address without brackets")),
            None => host,
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(legal) {
            return Err(wrong("has no host"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl ToSocketAddrs for HostPort {
    type Iter = std::vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> std::io::Result<Self::Iter> {
        (self.host.as_str(), self.port).to_socket_addrs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_of_a_socket_is_the_longest_that_the_kernel_takes() {
        let path = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        let address = |bytes: usize| std::os::unix::net::SocketAddr::from_pathname(path(bytes));
        assert!(address(SOCKET_PATH_BYTES_MAX).is_ok());
        assert!(address(SOCKET_PATH_BYTES_MAX + 1).is_err());
    }

    #[test]
    fn sizes_are_in_powers_of_1024_and_ambiguous_units_are_refused() {
        assert_eq!(parse_size("100GiB"), Ok(100 << 30));
        assert_eq!(parse_size("1 G"), Ok(1 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(
            parse_size("16777216T"),
            Err(BadValue::new("`16777216T` is beyond 2^64 bytes", "write less"))
        );
        let gigabyte = parse_size("100GB").expect_err("ambiguous");
        assert!(gigabyte.instead.contains("\"100GiB\""), "{gigabyte}");
        for bad in ["", "GiB", "1.5GiB", "-1", "1XiB", "1 GiBs"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        for text in ["100GiB", "4KiB", "1TiB", "1536MiB"] {
            assert_eq!(show_size(parse_size(text).expect("legal")), text);
        }
        assert_eq!(show_size(1), "1 bytes");
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(parse_span("500ms"), Ok(Span::from_millis(500)));
        assert_eq!(parse_span("2min"), Ok(Span::from_millis(120_000)));
        for bad in ["3", "s", "1.5s", "-1s", "3 days"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_reads_back_as_it_is_shown() {
        for text in ["10.0.0.1:7789", "alpha.example.org:1", "[fd00::1]:7789"] {
            assert_eq!(HostPort::parse(text).expect("legal").to_string(), text);
        }
        for bad in ["alpha", "alpha:", "alpha:0", "alpha:65536", ":1", "fd00::1:7789", "[x]:1", "a b:1"] {
            assert!(HostPort::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_keep_to_their_alphabet() {
        assert!(check_resource_name("mail-2_b").is_ok());
        for bad in ["", "-mail", "Mail", "ma/il", "..", &"a".repeat(65)] {
            assert!(check_resource_name(bad).is_err(), "{bad}");
        }
        assert!(check_node_name("Alpha.example.org").is_ok());
        for bad in ["", ".alpha", "a b", "a/b", "tiebreaker"] {
            assert!(check_node_name(bad).is_err(), "{bad}");
        }
    }
}
