//! Hello: who a node is and whom it expects. Its bytes, and whether two nodes belong together.

use super::{HandshakeError, KnownPeer, LocalIdentity, Nonce, VersionRange};
use crate::peer::fields::{FieldError, FieldReader, FieldWriter, code_of, value_of};
use crate::units::{NodeId, VoterId};

/// Longest name of a resource or of a node, bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Whether a voter holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoterKind {
    /// It does.
    Replica,
    /// It only votes.
    Tiebreaker,
}

impl std::fmt::Display for VoterKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Replica => "replica",
            Self::Tiebreaker => "tiebreaker",
        })
    }
}

const KINDS: [(VoterKind, u8); 2] = [(VoterKind::Replica, 1), (VoterKind::Tiebreaker, 2)];

/// The message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) versions: VersionRange,
    pub(super) kind: VoterKind,
    pub(super) node: NodeId,
    /// Whom the sender believes to speak with.
    pub(super) peer: NodeId,
    pub(super) voter: VoterId,
    pub(super) volume_bytes: u64,
    pub(super) configuration_digest: u64,
    pub(super) nonce: Nonce,
    pub(super) resource: String,
    pub(super) name: String,
}

impl Hello {
    /// What `local` says to `peer`.
    pub(super) fn of(local: &LocalIdentity, peer: NodeId, nonce: Nonce) -> Self {
        assert!(local.voter.0 != 0, "a voter has an identity");
        assert!(is_name(&local.resource), "the configuration checks the name of the resource");
        assert!(is_name(&local.name), "the configuration checks the names of the nodes");
        Self {
            versions: local.versions,
            kind: local.kind,
            node: local.node,
            peer,
            voter: local.voter,
            volume_bytes: local.volume_bytes,
            configuration_digest: local.configuration_digest,
            nonce,
            resource: local.resource.clone(),
            name: local.name.clone(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = FieldWriter::new(&mut out);
        writer.u16(self.versions.lowest);
        writer.u16(self.versions.highest);
        writer.u8(code_of(&KINDS, self.kind));
        writer.u8(self.node.0);
        writer.u8(self.peer.0);
        writer.reserved(1);
        writer.u64(self.voter.0);
        writer.u64(self.volume_bytes);
        writer.u64(self.configuration_digest);
        writer.bytes(&self.nonce);
        for name in [&self.resource, &self.name] {
            writer.u16(u16::try_from(name.len()).expect("at most NAME_BYTES_MAX"));
            writer.bytes(name.as_bytes());
        }
        out
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FieldError> {
        let mut reader = FieldReader::new(bytes);
        let versions = VersionRange { lowest: reader.u16("versions")?, highest: reader.u16("versions")? };
        if versions.lowest > versions.highest {
            return Err(FieldError::Value { field: "versions", value: versions.lowest.into() });
        }
        let kind = reader.coded("kind", |code| value_of(&KINDS, code))?;
        let (node, peer) = (NodeId(reader.u8("node")?), NodeId(reader.u8("peer")?));
        reader.reserved(1)?;
        let voter = VoterId(reader.u64("voter")?);
        if voter.0 == 0 {
            return Err(FieldError::Value { field: "voter", value: 0 });
        }
        let (volume_bytes, configuration_digest) = (reader.u64("volume_bytes")?, reader.u64("digest")?);
        let nonce = reader.take("nonce", size_of::<Nonce>())?.try_into().expect("as many as asked");
        let (resource, name) = (read_name(&mut reader, "resource")?, read_name(&mut reader, "name")?);
        reader.finish()?;
        Ok(Self {
            versions,
            kind,
            node,
            peer,
            voter,
            volume_bytes,
            configuration_digest,
            nonce,
            resource,
            name,
        })
    }

    /// The version to speak with the sender, if it and `local` belong together. The first reason not to
    /// is the one given, the most general first.
    pub(super) fn check(&self, local: &LocalIdentity, peers: &[KnownPeer]) -> Result<u16, HandshakeError> {
        let (node, name) = (self.node, self.name.clone());
        if self.resource != local.resource {
            let (ours, theirs) = (local.resource.clone(), self.resource.clone());
            return Err(HandshakeError::OtherResource { ours, theirs });
        }
        let (ours, theirs) = (local.versions, self.versions);
        let version = ours.newest_common(theirs).ok_or(HandshakeError::NoCommonVersion { ours, theirs })?;
        if node == local.node {
            return Err(HandshakeError::Itself { node });
        }
        if self.voter == local.voter {
            return Err(HandshakeError::SameVoter { voter: self.voter });
        }
        if self.peer != local.node {
            return Err(HandshakeError::NotMeant { ours: local.node, theirs: self.peer });
        }
        let known = peers.iter().find(|peer| peer.node == node && peer.name == name);
        let known = known.ok_or(HandshakeError::UnknownPeer { node, name })?;
        if known.kind != self.kind {
            return Err(HandshakeError::OtherKind { node, ours: known.kind, theirs: self.kind });
        }
        // A tiebreaker holds no data, so the size is nothing to it.
        let both_hold_data = (local.kind, self.kind) == (VoterKind::Replica, VoterKind::Replica);
        if both_hold_data && self.volume_bytes != local.volume_bytes {
            return Err(HandshakeError::OtherSize { ours: local.volume_bytes, theirs: self.volume_bytes });
        }
        Ok(version)
    }
}

fn read_name(reader: &mut FieldReader<'_>, field: &'static str) -> Result<String, FieldError> {
    let length = reader.u16(field)?;
    let refused = FieldError::Value { field, value: length.into() };
    if usize::from(length) > NAME_BYTES_MAX {
        return Err(refused);
    }
    let name = str::from_utf8(reader.take(field, length.into())?).map_err(|_| refused)?;
    if is_name(name) { Ok(name.to_owned()) } else { Err(refused) }
}

/// Names end up in logs, so they cannot hold anything that a terminal obeys.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(|letter: char| letter.is_control())
}
