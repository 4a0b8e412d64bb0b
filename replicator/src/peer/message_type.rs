//! The numbers and names of the messages: one table, shared by code, tests and docs/PROTOCOL.md.
//! A number is never used again for another message.

/// Which message a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageType {
    /// [`crate::peer::message::Message::State`]
    State,
    /// [`crate::peer::message::Message::Heartbeat`]
    Heartbeat,
    /// [`crate::peer::message::Message::Records`]
    Records,
    /// [`crate::peer::message::Message::NewGeneration`]
    NewGeneration,
    /// [`crate::peer::message::Message::Progress`]
    Progress,
    /// [`crate::peer::message::Message::Flush`]
    Flush,
    /// [`crate::peer::message::Message::CatchUpFrom`]
    CatchUpFrom,
    /// [`crate::peer::message::Message::VoteRequest`]
    VoteRequest,
    /// [`crate::peer::message::Message::VoteReply`]
    VoteReply,
    /// [`crate::peer::message::Message::RecordUpdate`]
    RecordUpdate,
    /// [`crate::peer::message::Message::RecordStored`]
    RecordStored,
    /// [`crate::peer::message::Message::Farewell`]
    Farewell,
    /// [`crate::peer::message::Message::RecordPassedOn`]
    RecordPassedOn,
    /// [`crate::peer::message::Message::DirtyRuns`]
    DirtyRuns,
    /// [`crate::peer::message::Message::ResyncFrom`]
    ResyncFrom,
    /// [`crate::peer::message::Message::Copies`]
    Copies,
    /// [`crate::peer::message::Message::CopiesFlushed`]
    CopiesFlushed,
    /// [`crate::peer::message::Message::ResyncEnd`]
    ResyncEnd,
    /// [`crate::peer::message::Message::Compare`]
    Compare,
    /// [`crate::peer::message::Message::Compared`]
    Compared,
    /// [`crate::peer::message::Message::ReadBlocks`]
    ReadBlocks,
    /// [`crate::peer::message::Message::BlocksRead`]
    BlocksRead,
    /// [`crate::peer::message::Message::SyncStatus`]
    SyncStatus,
}

impl MessageType {
    /// Every message with its number and its name.
    pub const ALL: [(Self, u16, &str); 23] = [
        (Self::State, 1, "State"),
        (Self::Heartbeat, 2, "Heartbeat"),
        (Self::Records, 3, "Records"),
        (Self::NewGeneration, 4, "NewGeneration"),
        (Self::Progress, 5, "Progress"),
        (Self::Flush, 6, "Flush"),
        (Self::CatchUpFrom, 7, "CatchUpFrom"),
        (Self::VoteRequest, 8, "VoteRequest"),
        (Self::VoteReply, 9, "VoteReply"),
        (Self::RecordUpdate, 10, "RecordUpdate"),
        (Self::RecordStored, 11, "RecordStored"),
        (Self::Farewell, 12, "Farewell"),
        (Self::RecordPassedOn, 13, "RecordPassedOn"),
        (Self::DirtyRuns, 14, "DirtyRuns"),
        (Self::ResyncFrom, 15, "ResyncFrom"),
        (Self::Copies, 16, "Copies"),
        (Self::CopiesFlushed, 17, "CopiesFlushed"),
        (Self::ResyncEnd, 18, "ResyncEnd"),
        (Self::Compare, 19, "Compare"),
        (Self::Compared, 20, "Compared"),
        (Self::ReadBlocks, 21, "ReadBlocks"),
        (Self::BlocksRead, 22, "BlocksRead"),
        (Self::SyncStatus, 23, "SyncStatus"),
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        self.row().1
    }

    /// The name in logs and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The message with number `code`, if there is one.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    fn row(self) -> &'static (Self, u16, &'static str) {
        Self::ALL.iter().find(|row| row.0 == self).expect("the table has every message")
    }
}

impl std::fmt::Display for MessageType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_number_and_a_name_of_its_own() {
        for (at, (message_type, code, name)) in MessageType::ALL.into_iter().enumerate() {
            assert_eq!(MessageType::from_code(code), Some(message_type));
            assert_eq!((message_type.code(), message_type.name()), (code, name));
            assert!(MessageType::ALL[..at].iter().all(|earlier| earlier.1 != code && earlier.2 != name));
        }
    }
}
