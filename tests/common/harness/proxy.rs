//! A way between two processes of a test that can be cut.

use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Passes connections on to a port until it is cut.
pub struct Proxy {
    port: u16,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// A way to a port of loopback.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (is_cut, streams) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let proxy = Self { port, is_cut, streams };
        let (is_cut, streams) = (proxy.is_cut.clone(), proxy.streams.clone());
        // It ends with the process.
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                // Whoever is not there is not passed on to.
                let Ok(callee) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                for (from, to) in [(&caller, &callee), (&callee, &caller)] {
                    let (from, to) = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
                    std::thread::spawn(move || pass_on(from, to));
                }
                let mut streams = streams.lock().expect("nobody panics with it");
                streams.push(caller);
                if is_cut.load(Ordering::SeqCst) {
                    end_all(&mut streams);
                }
            }
        });
        proxy
    }

    /// Where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection and lets no other one through.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        end_all(&mut self.streams.lock().expect("nobody panics with it"));
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    // Either end may go away at any time.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn end_all(streams: &mut Vec<TcpStream>) {
    for stream in streams.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
