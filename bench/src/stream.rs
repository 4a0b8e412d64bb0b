//! One TCP stream on loopback: what a link cannot be faster than.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

/// Bytes handed over at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Moves so many bytes from one thread to another; megabytes each second.
///
/// # Errors
/// Loopback does not work.
pub fn measure(size_bytes: u64) -> anyhow::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let reader = std::thread::spawn(move || -> std::io::Result<f64> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut received = 0.0;
        loop {
            match receiver.read(&mut piece)? {
                0 => return Ok(received),
                bytes => received += f64::from(u32::try_from(bytes).expect("a piece is short")),
            }
        }
    });
    let begun = Instant::now();
    let piece = vec![7; PIECE_BYTES];
    for _ in 0..size_bytes >> 20 {
        sender.write_all(&piece)?;
    }
    drop(sender);
    let received = reader.join().map_err(|_| anyhow::anyhow!("the reader died"))??;
    Ok(received / begun.elapsed().as_secs_f64() / 1e6)
}
