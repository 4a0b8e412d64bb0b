//! Starts a data plane: everything that can be refused is refused here, before there is a thread.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use replicator::config::Config;
use replicator::replica::{Replica, Restored};
use replicator::units::{Span, VoterId};
use rustix::event::EventfdFlags;
use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;
use tracing::error;

use crate::border::{FromDataPlane, ToDataPlane};
use crate::clock;
use crate::data_plane::backing_device::device::DeviceError;
use crate::data_plane::backing_device::start::{DiskPaths, OpenDisks, StartError};
use crate::data_plane::continuity::{Continuity, ContinuityError};
use crate::data_plane::event_loop::{EventLoop, LoopError, Parts};
use crate::data_plane::rescue_writer::{RescueSettings, RescueWriter};

/// What a data plane is told before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The resource.
    pub config: Config,
    /// Its disks on this node.
    pub disks: DiskPaths,
    /// How long to look for completions before each sleep, while they follow one another closely.
    pub busy_poll: Span,
    /// The page that outlives the daemon, but not the boot: `/run/twinblk/RES.run`.
    pub continuity_page: PathBuf,
    /// Where what is discarded after a split brain is kept.
    pub rescue: RescueSettings,
}

/// Why a data plane does not start.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// A disk cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There is nothing to start from.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The page that outlives the daemon cannot be used.
    #[error(transparent)]
    Continuity(#[from] ContinuityError),
    /// There is no `io_uring`.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The kernel gives no thread, no eventfd or no random numbers.
    #[error("cannot start the data plane: {0}")]
    Resources(std::io::Error),
}

/// A data plane that runs: the control plane's end of the border.
#[derive(Debug)]
pub struct DataPlane {
    sender: Sender<ToDataPlane>,
    counter: Arc<OwnedFd>,
    voter: VoterId,
}

/// Tells a data plane things; may be cloned and moved to any thread.
#[derive(Clone, Debug)]
pub struct Teller {
    sender: Sender<ToDataPlane>,
    counter: Arc<OwnedFd>,
}

impl Teller {
    /// Tells it something; false if it has ended. Never waits.
    pub fn tell(&self, what: ToDataPlane) -> bool {
        self.sender.send(what).is_ok() && rustix::io::write(&*self.counter, &1_u64.to_ne_bytes()).is_ok()
    }
}

impl DataPlane {
    /// Opens the disks, reads what they hold, and starts the thread. When it ends, the last thing that `to_control`
    /// hears is [`FromDataPlane::Ended`].
    ///
    /// # Errors
    /// Something is missing, in use, or belongs elsewhere; nothing has been changed.
    pub fn spawn(settings: Settings, to_control: UnboundedSender<FromDataPlane>) -> Result<Self, SpawnError> {
        let mut disks = OpenDisks::open(&settings.disks)?;
        let found = disks.read(&settings.config)?;
        let (continuity, earlier) = Continuity::open(&settings.continuity_page)?;
        let seed = getrandom::u64().map_err(|error| SpawnError::Resources(std::io::Error::other(error)))?;
        let voter = found.superblock.voter;
        let restored = Restored {
            superblock: found.superblock,
            recovery: found.recovery,
            bitmap_pages: found.bitmap_pages,
            seed,
            started: clock::now(),
            continuity: earlier,
        };
        let (sender, from_control) = mpsc::channel();
        let counter = rustix::event::eventfd(0, EventfdFlags::CLOEXEC);
        let counter = Arc::new(counter.map_err(|errno| SpawnError::Resources(errno.into()))?);
        let (ready, started) = mpsc::channel();
        let parts = |core| Parts {
            resource: settings.config.resource.clone(),
            busy_poll: settings.busy_poll,
            core,
            disks: disks.into_backing_device(),
            continuity,
            from_control,
            counter: counter.clone(),
            rescue: RescueWriter::new(settings.rescue.clone(), counter.clone()),
            to_control: to_control.clone(),
        };
        let parts = parts(Replica::restore(settings.config.clone(), restored));
        let body = move || match EventLoop::new(parts) {
            Err(refused) => drop(ready.send(Err(refused))),
            Ok(event_loop) => {
                drop(ready.send(Ok(())));
                let ended = event_loop.run();
                if let Err(error) = &ended {
                    error!("the data plane ends: {error}");
                }
                let error = ended.err().map(|error| error.to_string());
                // A control plane that has ended needs to hear nothing.
                drop(to_control.send(FromDataPlane::Ended { error }));
            }
        };
        // Nobody joins the thread: when `Ended` is heard, its disks are closed.
        let thread = std::thread::Builder::new().name("data-plane".into()).spawn(body);
        thread.map_err(SpawnError::Resources)?;
        started.recv().expect("the thread says whether it could start")?;
        Ok(Self { sender, counter, voter })
    }

    /// The identity of this node's metadata.
    #[must_use]
    pub fn voter(&self) -> VoterId {
        self.voter
    }

    /// What tells it things.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller { sender: self.sender.clone(), counter: self.counter.clone() }
    }
}
