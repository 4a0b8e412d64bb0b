//! The volume as a client sees it: one NBD connection over a Unix socket, one request at a time. The client is
//! the independent crate `nbd`, so that no mistake of the server is repeated on this side.

use std::io::{BufReader, BufWriter, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nbd::client::{NbdClient, handshake};

/// Longest wait for an answer. A frozen volume answers within a few peer-timeouts.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A connection to a volume.
pub struct Volume {
    client: NbdClient<Stream>,
}

/// A socket with a buffer in each direction, so that a request leaves in one piece.
struct Stream {
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
}

impl Volume {
    /// Connects to the export `name` behind `socket`.
    ///
    /// # Errors
    /// Nobody listens there, or whoever does is not Primary.
    pub fn connect(socket: &Path, name: &str) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut stream = Stream { reader, writer: BufWriter::new(stream) };
        let export = handshake(&mut stream, name.as_bytes())?;
        Ok(Self { client: NbdClient::new(stream, &export) })
    }

    /// Writes `bytes` at `offset` and flushes: after that they are acknowledged.
    ///
    /// # Errors
    /// The connection broke, or the server refused.
    pub fn write_and_flush(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.client.seek(SeekFrom::Start(offset))?;
        self.client.write_all(bytes)?;
        self.client.flush()
    }

    /// Reads `length` bytes at `offset`.
    ///
    /// # Errors
    /// The connection broke, or the server refused.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).expect("64-bit target")];
        self.client.seek(SeekFrom::Start(offset))?;
        self.client.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        self.reader.read(bytes)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }
}
