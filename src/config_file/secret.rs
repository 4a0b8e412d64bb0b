//! The shared secret of a resource: read from its file, never printed.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::ResourceConfig;

/// Shortest secret, bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// Longest secret, bytes.
pub const SECRET_BYTES_MAX: usize = 4096;

/// A shared secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why there is no secret. Every text begins with the configuration's file and line.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {}; {instead}", config.display(), self.what())]
pub struct SecretError {
    /// The configuration.
    pub config: PathBuf,
    /// Line of `secret-file` in it.
    pub line: usize,
    /// The file with the secret.
    pub file: PathBuf,
    /// What is wrong with it.
    pub wrong: String,
    /// What to do.
    pub instead: String,
}

impl SecretError {
    /// What is wrong, without the place in the configuration.
    pub fn what(&self) -> String {
        format!("secret-file: {} {}", self.file.display(), self.wrong)
    }
}

impl ResourceConfig {
    /// Reads the secret; line ends behind it do not count.
    ///
    /// # Errors
    /// The file cannot be read, is open to others or another's, or is too short or too long.
    pub fn load_secret(&self) -> Result<Secret, SecretError> {
        read(&self.file, self.secret_line, &self.secret_file)
    }
}

/// Reads the secret in `file`, which line `line` of the configuration names.
///
/// # Errors
/// As [`ResourceConfig::load_secret`].
pub fn read(config: &Path, line: usize, file: &Path) -> Result<Secret, SecretError> {
    let path = file.display();
    let refuse = |wrong: String, instead: String| SecretError {
        config: config.to_owned(),
        line,
        file: file.to_owned(),
        wrong,
        instead,
    };
    let make = || {
        format!(
            "make one with `head -c 32 /dev/urandom | base64 | install -m 600 /dev/stdin {path}` and copy it to every voter"
        )
    };
    let unreadable = |error: std::io::Error| refuse(format!("cannot be read ({error})"), make());
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    // Whoever owns it may read it, and write it. Root may do so anyway.
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(refuse(
            format!("belongs to user {owner}, not to user {own} or root"),
            format!("type `chown {own} {path}`, and make a new secret if others may have read it"),
        ));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refuse(
            format!("is open to others than its owner (mode {mode:03o})"),
            format!("type `chmod 600 {path}`, and make a new secret if others may have read it"),
        ));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(SECRET_BYTES_MAX).expect("small") + 3;
    opened.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    match bytes.len() {
        SECRET_BYTES_MIN..=SECRET_BYTES_MAX => Ok(Secret(bytes)),
        0..SECRET_BYTES_MIN => Err(refuse(
            format!("holds {} bytes, at least {SECRET_BYTES_MIN} are needed", bytes.len()),
            make(),
        )),
        _ => Err(refuse(format!("holds more than {SECRET_BYTES_MAX} bytes"), make())),
    }
}
