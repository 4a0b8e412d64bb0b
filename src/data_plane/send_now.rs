//! Sends on a socket without the ring. Most sends fit the socket's buffer: done at once they cost one system call
//! and wake the other side early, while the ring would add a completion that has to be waited for and taken out.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// Most pieces of one call; what lies behind them counts as not taken.
const PIECES_MAX: usize = 64;

/// Hands the kernel as much of the pieces as it takes at once, and says how many bytes that was. Never waits.
///
/// # Errors
/// The socket takes nothing any more.
pub fn send_now(socket: &OwnedFd, pieces: &[Bytes]) -> Result<usize, Errno> {
    let slices: Vec<IoSlice> = pieces.iter().take(PIECES_MAX).map(|piece| IoSlice::new(piece)).collect();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        taken => taken,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_full_socket_takes_a_part_then_nothing_and_never_makes_the_caller_wait() {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        let pieces = [Bytes::from_static(b"header"), Bytes::from(vec![7; 64 << 20])];
        let taken = send_now(&ours, &pieces).unwrap();
        assert!((1..64 << 20).contains(&taken), "{taken} bytes");
        assert_eq!(send_now(&ours, &pieces), Ok(0));
        let mut arrived = vec![0; taken];
        peer.read_exact(&mut arrived).unwrap();
        assert_eq!((&arrived[..6], &arrived[6..]), (&b"header"[..], &pieces[1][..taken - 6]));
        drop(peer);
        assert_eq!(send_now(&ours, &pieces), Err(Errno::PIPE));
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_taken_in_part() {
        let (_peer, ours) = UnixStream::pair().unwrap();
        let pieces = vec![Bytes::from_static(b"x"); PIECES_MAX + 1];
        assert_eq!(send_now(&ours.into(), &pieces), Ok(PIECES_MAX));
    }
}
