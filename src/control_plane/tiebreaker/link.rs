//! One authenticated link of the tiebreaker: frames in, frames out, and its end.
//!
//! Rule: a link that sends blocks or nonsense, or takes no frames, ends, and nothing else does; silence is noticed by
//! the state machine. The owner hears of every frame in order and of the end once, last. Bytes become frames here;
//! what they say is not looked at. Sockets are tokio's (epoll), because a wait may be dropped with its link.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use replicator::event::{LinkId, LinkLoss};
use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, OutboundFrame, ReceivedFrame};
use replicator::units::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Frames that wait to be sent on a link; a peer that takes none for so long is gone.
const FRAMES_MAX: usize = 64;

/// What happened on a link.
#[derive(Debug)]
pub struct FromLink {
    /// With whom.
    pub peer: NodeId,
    /// On which.
    pub link: LinkId,
    /// What.
    pub what: Happened,
}

/// What happened.
#[derive(Debug)]
pub enum Happened {
    /// A frame arrived whole.
    Received(ReceivedFrame),
    /// It ended; nothing follows.
    Ended(LinkLoss),
}

/// The owner's end of a link. Dropping it ends the link, after what was sent has been written.
#[derive(Debug)]
pub struct Outbox {
    frames: mpsc::Sender<OutboundFrame>,
}

impl Outbox {
    /// Queues a frame.
    ///
    /// # Errors
    /// The peer takes no frames, or the link has ended; drop it.
    pub fn send(&self, frame: OutboundFrame) -> Result<(), LinkLoss> {
        self.frames.try_send(frame).map_err(|_| LinkLoss::Dropped)
    }
}

/// Starts the task of a link. A peer that takes longer than `write_limit` for a frame is gone.
pub fn start(
    stream: TcpStream,
    (peer, link): (NodeId, LinkId),
    write_limit: Duration,
    owner: mpsc::Sender<FromLink>,
) -> Outbox {
    let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
    tokio_uring::spawn(async move {
        let (reading, writing) = stream.into_split();
        let say = async |what| owner.send(FromLink { peer, link, what }).await;
        let received = async {
            let mut reading = reading;
            loop {
                let frame = match read_frame(&mut reading).await {
                    Ok(frame) => frame,
                    Err(loss) => return loss,
                };
                if say(Happened::Received(frame)).await.is_err() {
                    // The owner has gone: the process ends.
                    return LinkLoss::Dropped;
                }
            }
        };
        let loss = tokio::select! {
            loss = received => loss,
            loss = write_frames(writing, outgoing, write_limit) => loss,
        };
        // It fails if the owner has gone, and then nobody needs to know.
        let _ = say(Happened::Ended(loss)).await;
    });
    Outbox { frames }
}

async fn read_frame(reading: &mut OwnedReadHalf) -> Result<ReceivedFrame, LinkLoss> {
    let mut header = [0; FRAME_HEADER_BYTES];
    reading.read_exact(&mut header).await.map_err(loss_of)?;
    let header = FrameHeader::parse(&header).map_err(|error| refuse(&error))?;
    if header.payload_bytes() > 0 {
        return Err(refuse(&"blocks were sent to a tiebreaker"));
    }
    let mut body = vec![0; header.body_bytes()];
    reading.read_exact(&mut body).await.map_err(loss_of)?;
    ReceivedFrame::assemble(header, body.into(), Bytes::new()).map_err(|error| refuse(&error))
}

/// Writes what is queued until the owner drops the link or the peer takes nothing any more.
async fn write_frames(
    mut writing: OwnedWriteHalf,
    mut outgoing: mpsc::Receiver<OutboundFrame>,
    write_limit: Duration,
) -> LinkLoss {
    while let Some(frame) = outgoing.recv().await {
        let write = async {
            writing.write_all(&frame.head).await?;
            for payload in &frame.payloads {
                writing.write_all(payload).await?;
            }
            Ok(())
        };
        match tokio::time::timeout(write_limit, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return loss_of(error),
            Err(_) => return timed_out(),
        }
    }
    LinkLoss::Dropped
}

fn refuse(error: &dyn std::fmt::Display) -> LinkLoss {
    tracing::warn!(%error, "a frame was refused");
    LinkLoss::BadFrame
}

fn loss_of(error: io::Error) -> LinkLoss {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::UnexpectedEof, _) | (_, None) => LinkLoss::Closed,
        (_, Some(errno)) => LinkLoss::Socket(errno),
    }
}

fn timed_out() -> LinkLoss {
    LinkLoss::Socket(rustix::io::Errno::TIMEDOUT.raw_os_error())
}

#[cfg(test)]
mod tests {
    use replicator::peer::frame::FrameStamp;
    use replicator::peer::message::{FarewellReason, Message};
    use replicator::units::{Term, Tick};

    use super::*;
    use crate::control_plane::listen::{self, Listener};

    const LINK: (NodeId, LinkId) = (NodeId(1), LinkId(7));

    fn farewell() -> OutboundFrame {
        let stamp = FrameStamp { term: Term::ZERO, clock: Tick(5), echo: Tick(0) };
        Message::Farewell { reason: FarewellReason::Stopping }.encode(stamp)
    }

    async fn linked(write_limit: Duration) -> (TcpStream, Outbox, mpsc::Receiver<FromLink>) {
        let listener = listen::on_address("127.0.0.1:0".parse().expect("an address")).expect("listens");
        let peer = TcpStream::connect(listener.address()).await.expect("connects");
        let (owner, heard) = mpsc::channel(4);
        let outbox = start(listener.accept().await.expect("accepts"), LINK, write_limit, owner);
        (peer, outbox, heard)
    }

    async fn end(heard: &mut mpsc::Receiver<FromLink>) -> LinkLoss {
        match heard.recv().await.expect("the end is told").what {
            Happened::Ended(loss) => loss,
            Happened::Received(frame) => panic!("{frame:?} instead of the end"),
        }
    }

    #[test]
    fn frames_travel_both_ways_and_the_end_is_told_last() {
        tokio_uring::start(async {
            let (mut peer, outbox, mut heard) = linked(Duration::from_secs(20)).await;
            outbox.send(farewell()).expect("queued");
            let mut bytes = vec![0; farewell().head.len()];
            peer.read_exact(&mut bytes).await.expect("reads");
            assert_eq!(bytes, farewell().head);
            // In two pieces, and the end right behind.
            let (first, second) = bytes.split_at(70);
            peer.write_all(first).await.expect("sends");
            peer.write_all(second).await.expect("sends");
            drop(peer);
            let Some(FromLink { what: Happened::Received(frame), .. }) = heard.recv().await else {
                panic!("no frame")
            };
            assert_eq!(frame.stamp.clock, Tick(5));
            assert_eq!(end(&mut heard).await, LinkLoss::Closed);
        });
    }

    #[test]
    fn what_is_no_frame_ends_the_link() {
        tokio_uring::start(async {
            let (mut peer, _outbox, mut heard) = linked(Duration::from_secs(20)).await;
            peer.write_all(&[7; FRAME_HEADER_BYTES]).await.expect("sends");
            assert_eq!(end(&mut heard).await, LinkLoss::BadFrame);
        });
    }

    #[test]
    fn dropping_a_link_first_sends_what_was_queued() {
        tokio_uring::start(async {
            let (mut peer, outbox, mut heard) = linked(Duration::from_secs(20)).await;
            outbox.send(farewell()).expect("queued");
            drop(outbox);
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).await.expect("reads");
            assert_eq!(bytes, farewell().head);
            assert_eq!(end(&mut heard).await, LinkLoss::Dropped);
        });
    }

    #[test]
    fn a_peer_that_takes_no_frames_fills_its_queue_and_no_more() {
        tokio_uring::start(async {
            let (_peer, outbox, _heard) = linked(Duration::from_secs(20)).await;
            // The link's task does not run meanwhile, as if its socket were full.
            let queued = (0..=FRAMES_MAX).map(|_| outbox.send(farewell())).filter(Result::is_ok).count();
            assert_eq!(queued, FRAMES_MAX);
        });
    }
}
