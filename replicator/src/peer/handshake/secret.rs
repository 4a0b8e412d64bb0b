//! The shared secret and the proofs made with it: HMAC-SHA256, compared in constant time.
//! The secret is never printed.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::units::bytes_u64;

/// Shortest legal secret, bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// What all voters of a resource know and nobody else. Not comparable: a comparison takes time that tells.
#[derive(Clone)]
pub struct Secret {
    bytes: Vec<u8>,
}

/// A secret that could be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {found} bytes, at least {SECRET_BYTES_MIN} are needed")]
pub struct SecretTooShort {
    /// Its length.
    pub found: usize,
}

/// Which side of a handshake a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Listener,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }

    /// Begins the text that is authenticated, so that one side's proof never serves as the other's.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Dialer => b"twinblk dialer\0",
            Self::Listener => b"twinblk listener\0",
        }
    }
}

impl Secret {
    /// The secret with these bytes.
    ///
    /// # Errors
    /// There are fewer than [`SECRET_BYTES_MIN`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretTooShort> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort { found: bytes.len() });
        }
        Ok(Self { bytes })
    }

    /// What `side` sends to show that it knows the secret.
    pub(super) fn proof(&self, side: Side, version: u16, dialer: &[u8], listener: &[u8]) -> [u8; 32] {
        self.authenticate(side, version, dialer, listener).finalize().into_bytes().into()
    }

    /// Whether `proof` is what `side` would have sent if it knows the secret.
    pub(super) fn verifies(
        &self,
        side: Side,
        version: u16,
        dialer: &[u8],
        listener: &[u8],
        proof: &[u8],
    ) -> bool {
        self.authenticate(side, version, dialer, listener).verify_slice(proof).is_ok()
    }

    /// Every part that varies in length comes with its length: no two conversations give the same text.
    fn authenticate(&self, side: Side, version: u16, dialer: &[u8], listener: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).expect("HMAC takes a key of any length");
        mac.update(side.label());
        mac.update(&version.to_le_bytes());
        for hello in [dialer, listener] {
            mac.update(&bytes_u64(hello.len()).to_le_bytes());
            mac.update(hello);
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}
