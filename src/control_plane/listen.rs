//! Opens the sockets that others connect to, and accepts on them.
//!
//! Rule: a socket file is replaced only if nobody answers on it, and it exists with its final mode before anybody
//! can connect. Accepting waits for readiness by epoll (tokio's listeners): an accept on the ring that is dropped,
//! as every accept is at shutdown, may complete afterwards and leak the descriptor it accepted.
//! Knows nothing of what is spoken on a connection.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::limit::LogLimit;

/// Connections that the kernel holds until they are accepted: 200 clients may come at once.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which the kernel asks whether the other end still lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered questions that end the connection.
const KEEPALIVE_PROBES: u32 = 3;

/// Why a socket cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Another process answers there.
    #[error("another process listens on {}", path.display())]
    InUse {
        /// The socket file.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The folder of the socket file is missing.
    #[error("the folder of {} does not exist", path.display())]
    NoFolder {
        /// The socket file.
        path: PathBuf,
    },
    /// The kernel refused the socket file.
    #[error("cannot listen on {}: {source}", path.display())]
    Unix {
        /// The socket file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused the address.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A connection of which the control plane owns the beginning, and somebody else the rest.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Takes the connection away from the runtime.
    ///
    /// # Errors
    /// The runtime could not let go of it.
    fn into_descriptor(self) -> io::Result<OwnedFd>;
}

impl Connection for UnixStream {
    fn into_descriptor(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}

impl Connection for TcpStream {
    fn into_descriptor(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}

/// A socket that accepts.
pub trait Listener: 'static {
    /// What it accepts.
    type Connection: Connection;

    /// Waits for the next connection. May be dropped at any time.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>>;

    /// Where it listens, for logs.
    fn name(&self) -> String;
}

/// Listens on a socket file, which is taken away when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: a socket file that somebody else has put there meanwhile is left alone.
    identity: (u64, u64),
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino()));
        if now.is_ok_and(|identity| identity == self.identity) {
            // The end of the process must not depend on it: a stale file is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener for UnixSocket {
    type Connection = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Listens on an address.
#[derive(Debug)]
pub struct TcpSocket {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpSocket {
    /// Where it listens; the port is the real one if any was asked for.
    #[cfg(test)]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Listener for TcpSocket {
    type Connection = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        set_keepalive(&stream)?;
        Ok(stream)
    }

    fn name(&self) -> String {
        self.address.to_string()
    }
}

/// Lets the kernel notice an other end that has vanished without a word.
///
/// # Errors
/// The kernel refused the option.
pub fn set_keepalive(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(&stream.as_fd()).set_tcp_keepalive(&keepalive)
}

/// Listens on `path` with file mode `mode`. A socket file on which nobody answers is replaced.
///
/// # Errors
/// Somebody answers there, the name is taken by something else, the folder is missing, or the kernel refuses.
pub fn on_path(path: &Path, mode: u32) -> Result<UnixSocket, ListenError> {
    let refused = |source| ListenError::Unix { path: path.to_owned(), source };
    if path.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return Err(ListenError::NoFolder { path: path.to_owned() });
    }
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(refused)?;
    socket.bind(&SockAddr::unix(path).map_err(refused)?).map_err(refused)?;
    // Before `listen` every connect is refused, so nobody gets in by the mode that `bind` gave the file.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(refused)?;
    socket.listen(BACKLOG).map_err(refused)?;
    let metadata = fs::symlink_metadata(path).map_err(refused)?;
    let listener = UnixListener::from_std(OwnedFd::from(socket).into()).map_err(refused)?;
    Ok(UnixSocket { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
}

/// Takes a socket file away on which nobody answers.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let refused = |source| ListenError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match ask(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replaces a socket on which nobody answers");
            fs::remove_file(path).map_err(refused)
        }
        Ok(()) => Err(ListenError::InUse { path: path.to_owned() }),
        // Its queue is full: somebody listens, however slowly.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ListenError::InUse { path: path.to_owned() })
        }
        Err(error) => Err(refused(error)),
    }
}

/// Connects and hangs up, without waiting for a listener that is busy.
fn ask(path: &Path) -> io::Result<()> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?.connect(&SockAddr::unix(path)?)
}

/// Listens on `address`.
///
/// # Errors
/// The kernel refuses, for example because another process listens there.
pub fn on_address(address: SocketAddr) -> Result<TcpSocket, ListenError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        // Connections of an earlier run that linger in TIME_WAIT must not delay a restart.
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(OwnedFd::from(socket).into())
    };
    let refused = |source| ListenError::Tcp { address, source };
    let listener = open().map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok(TcpSocket { listener, address })
}

/// Accepts the next connection, however many attempts fail; a shortage is logged and waited out.
pub async fn accept_next<L: Listener>(listener: &L, shortage: &LogLimit) -> L::Connection {
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(listener = listener.name(), %error, "a connection ended before it was accepted");
            }
            Err(error) => {
                if let Some(suppressed) = shortage.permits() {
                    tracing::warn!(listener = listener.name(), %error, suppressed, "cannot accept; waits");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether only the one connection failed that was about to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_is_replaced_only_if_nobody_answers_on_it() {
        tokio_uring::start(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("mail.sock");
            drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
            assert!(path.exists(), "it is left behind, as after a crash");

            let first = on_path(&path, 0o600).expect("the stale socket is replaced");
            assert!(matches!(on_path(&path, 0o600), Err(ListenError::InUse { .. })));
            let mode = fs::metadata(&path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            drop(first);
            assert!(!path.exists(), "a clean end leaves nothing behind");
        });
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mail.sock");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(on_path(&path, 0o600), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
        let nowhere = folder.path().join("missing/mail.sock");
        assert!(matches!(on_path(&nowhere, 0o600), Err(ListenError::NoFolder { .. })));
    }

    #[test]
    fn a_socket_file_of_a_successor_survives_the_end_of_its_predecessor() {
        tokio_uring::start(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("mail.sock");
            let first = on_path(&path, 0o600).expect("listens");
            fs::rename(&path, folder.path().join("away")).expect("moved");
            let second = on_path(&path, 0o600).expect("listens");
            drop(first);
            assert!(path.exists());
            drop(second);
        });
    }

    #[test]
    fn an_address_in_use_is_refused_by_name() {
        tokio_uring::start(async {
            let first = on_address("127.0.0.1:0".parse().expect("an address")).expect("listens");
            let refusal = on_address(first.address()).expect_err("taken");
            assert!(refusal.to_string().starts_with(&format!("cannot listen on {}", first.address())));
        });
    }
}
