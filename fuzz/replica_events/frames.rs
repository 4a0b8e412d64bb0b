//! What a peer says: any message that its own encoder would let it send, in any order, with values that are near to
//! what the replica itself has said, or far from it; and honest answers, so that the script gets into deep water.

use bytes::Bytes;
use replicator::generation::lineage::{Generation, Lineage, Position};
use replicator::generation::split_brain::Discards;
use replicator::peer::message::{
    Basis, Denial, FarewellReason, Message, PeerState, Progress, RecordBatch, VoteReply, VoteRequest,
    VoteStage,
};
use replicator::promotion::membership::{InSyncSet, MembershipRecord};
use replicator::record::{RECORD_BLOCKS_MAX, Record, RecordKind};
use replicator::remote_read::{READ_BLOCKS_MAX, ReadRequest};
use replicator::resync::Differing;
use replicator::resync::digest::{BlockDigest, Comparison};
use replicator::resync::pace::SyncCounts;
use replicator::resync::target::Compared;
use replicator::state::{DiskState, Role};
use replicator::units::{
    BLOCK_SIZE, BlockRange, GenerationId, Incarnation, Lsn, NodeId, REPLICAS_MAX, Span, Term, VoterId,
};

use super::bench::VOLUME_BYTES;
use super::script::Script;

const VOLUME_BLOCKS: u64 = VOLUME_BYTES / 4096;
/// The greatest term and version that are said. Not the last one that may be, 2^63 - 1: what a replica makes of that its
/// peers refuse to read, and the bench holds it to sending what can be read.
const NUMBER_MAX: u64 = (1 << 62) - 1;
/// Numbers that code which adds to them goes wrong with.
const HUGE: [u64; 4] = [u64::MAX, u64::MAX - 1, (1 << 63) - 1, 1 << 62];
const DISKS: [DiskState; 6] = [
    DiskState::UpToDate,
    DiskState::Consistent,
    DiskState::Outdated,
    DiskState::Inconsistent,
    DiskState::Failed,
    DiskState::Diskless,
];

/// What a peer knows of the replica.
pub struct Known {
    /// Itself.
    pub node: NodeId,
    pub replica: NodeId,
    /// Replicas and tiebreaker.
    pub voters: u8,
    /// What the replica said of itself last.
    pub said: Option<PeerState>,
    /// The replica's record.
    pub record: MembershipRecord,
    pub incarnation: Incarnation,
    pub lineage: Lineage,
    /// Numbers of writes that mean something.
    pub marks: [Lsn; 4],
}

/// The run that a peer always is, unless the script wants another.
pub fn usual_incarnation(node: NodeId) -> Incarnation {
    Incarnation(50 + u64::from(node.0))
}

pub fn voter_id(node: NodeId) -> VoterId {
    VoterId(100 + u64::from(node.0))
}

impl Known {
    fn lsn(&self, script: &mut Script<'_>) -> Lsn {
        let mark = self.marks[usize::from(script.below(4))].0;
        Lsn(match script.below(12) {
            0..=3 => mark,
            4 | 5 => mark + 1,
            6 => mark.saturating_sub(1),
            7 => mark + u64::from(script.byte()),
            8 => 0,
            9 => script.byte().into(),
            10 => mark.saturating_sub(script.byte().into()),
            _ => script.pick(&HUGE),
        })
    }

    fn term(&self, script: &mut Script<'_>) -> Term {
        let own = self.record.term;
        match script.below(8) {
            0..=2 => own,
            3 | 4 => Term { number: own.number + 1, taker: 1 + u64::from(script.below(3)) },
            5 => Term { number: own.number.saturating_sub(1).max(1), taker: 1 },
            6 => Term { number: 1 + u64::from(script.below(8)), taker: u64::from(script.below(3)) },
            _ => Term { number: NUMBER_MAX, taker: u64::MAX },
        }
    }

    fn incarnation(&self, node: NodeId, script: &mut Script<'_>) -> Incarnation {
        match script.below(8) {
            0..=4 if node == self.replica => self.incarnation,
            0..=4 => usual_incarnation(node),
            5 => self.record.in_sync.incarnation_of(node).unwrap_or(Incarnation(9)),
            6 => self.incarnation,
            _ => Incarnation(1 + u64::from(script.below(4))),
        }
    }

    fn continues(&self, node: NodeId, script: &mut Script<'_>) -> Option<Incarnation> {
        script.rarely(3).then(|| self.incarnation(node, script))
    }

    fn generation_id(&self, script: &mut Script<'_>) -> GenerationId {
        let own = self.lineage.generations();
        match script.below(4) {
            0 | 1 if !own.is_empty() => own[usize::from(script.byte()) % own.len()].id,
            2 => GenerationId::ZEROED,
            _ => GenerationId(1 + u64::from(script.below(4))),
        }
    }

    /// The replica's own lineage, that with something else at its end, or one that has little to do with it.
    pub fn lineage(&self, script: &mut Script<'_>) -> Lineage {
        let mut generations = match script.below(8) {
            0..=5 => self.lineage.generations().to_vec(),
            6 => Vec::new(),
            _ => Lineage::zeroed().generations().to_vec(),
        };
        if script.rarely(3) {
            let kept = usize::from(script.below(8)).min(generations.len());
            generations.truncate(kept);
        }
        for _ in 0..script.pick(&[0, 0, 0, 0, 1, 1, 2, 3, 70]) {
            let last = generations.last().copied();
            let term = self.term(script).max(last.map_or(Term::ZERO, |last| last.term));
            let first_lsn = self.lsn(script).max(last.map_or(Lsn(1), |last| last.first_lsn));
            let id = self.generation_id(script);
            generations.push(Generation { id, term, granted: script.flag(), first_lsn });
        }
        // As long as it may be, and no longer.
        let first = generations.len().saturating_sub(64);
        Lineage::parse(generations.split_off(first)).unwrap_or_else(|_| Lineage::zeroed())
    }

    /// A record that some node could hold.
    fn a_record(&self, script: &mut Script<'_>) -> MembershipRecord {
        let node = |script: &mut Script<'_>, end| NodeId(script.below(end));
        let term = self.term(script);
        if term == Term::ZERO {
            return MembershipRecord::default();
        }
        let version = match script.below(4) {
            0 => self.record.version,
            1 => self.record.version + 1,
            2 => script.byte().into(),
            _ => NUMBER_MAX,
        };
        let first = node(script, 4);
        let mut in_sync = match self.record.in_sync.is_empty() || script.flag() {
            true => InSyncSet::of(first, self.incarnation(first, script)),
            false => self.record.in_sync,
        };
        for _ in 0..script.below(3) {
            let member = node(script, 8);
            in_sync = in_sync.with(member, self.incarnation(member, script));
        }
        let primary = match script.below(4) {
            0 => None,
            1 => Some(self.node),
            2 => Some(self.replica),
            _ => Some(node(script, 8)),
        };
        let mut record = MembershipRecord { term, version, primary, in_sync, voters: self.record.voters };
        if script.rarely(8) {
            record.voters.ids[usize::from(script.below(9))] = VoterId(u64::from(script.byte()));
        }
        for named in record.named().collect::<Vec<_>>() {
            let id = &mut record.voters.ids[named.index()];
            if *id == VoterId::default() {
                *id = voter_id(named);
            }
        }
        record
    }

    fn record_of_its_own_or(&self, script: &mut Script<'_>) -> MembershipRecord {
        if script.rarely(3) { self.a_record(script) } else { self.record }
    }

    fn position(&self, script: &mut Script<'_>) -> Position {
        match script.below(4) {
            0 => Position::default(),
            1 | 2 => self.lineage.position(self.marks[1]),
            _ => {
                let (term, first_lsn, lsn) = (self.term(script), self.lsn(script), self.lsn(script));
                Position { term, first_lsn, lsn, generation: self.generation_id(script) }
            }
        }
    }

    /// A state that answers the replica's, with as many lies as the script wants.
    fn state(&self, introduction: u32, script: &mut Script<'_>) -> PeerState {
        let role = script.pick(&[Role::Secondary, Role::Primary]);
        let end = self.lsn(script);
        let flushed = if script.rarely(3) { self.lsn(script).min(end) } else { end };
        let oldest_kept = match script.below(4) {
            0 => Lsn(end.0.saturating_add(1)),
            1 => Lsn(self.lsn(script).0.clamp(1, end.0.saturating_add(1))),
            _ => Lsn(1),
        };
        let base = match script.below(4) {
            0 | 1 => (GenerationId::default(), Lsn::ZERO),
            2 => (self.lineage.newest_id(), if self.lineage.is_empty() { Lsn::ZERO } else { self.marks[1] }),
            _ => (self.generation_id(script), self.lsn(script)),
        };
        PeerState {
            introduction,
            node: if script.rarely(64) { NodeId(script.below(8)) } else { self.node },
            volume_bytes: if script.rarely(64) { VOLUME_BYTES * 2 } else { VOLUME_BYTES },
            role,
            disk: script.pick(&DISKS),
            lineage: self.lineage(script),
            end,
            flushed,
            stable: self.lsn(script).min(end),
            oldest_kept,
            base,
            has_dirty_bits: script.rarely(4),
            resync_from: script.rarely(6).then(|| NodeId(script.below(3))),
            follows_another: role == Role::Secondary && script.rarely(8),
            discards: script.pick(&[
                Discards::Nothing,
                Discards::Nothing,
                Discards::Nothing,
                Discards::Changes,
                Discards::Everything,
            ]),
            is_tentative: script.rarely(24),
            record: self.record_of_its_own_or(script),
            incarnation: self.incarnation(self.node, script),
            continues: self.continues(self.node, script),
            configuration_digest: if script.rarely(64) { 8 } else { 7 },
        }
    }

    fn introduction(&self, script: &mut Script<'_>) -> u32 {
        let said = self.said.as_ref().map_or(1, |said| said.introduction);
        match script.below(8) {
            0..=4 => said,
            5 | 6 => said + 1,
            _ => script.pick(&[1, 2, (1 << 31) - 1]),
        }
    }

    fn block_range(&self, count_max: u64, script: &mut Script<'_>) -> BlockRange {
        let first = u64::from(script.byte());
        let count = 1 + u64::from(script.below(8)).min(count_max - 1);
        match script.below(32) {
            31 => BlockRange::new(VOLUME_BLOCKS - 1, 2),
            30 => BlockRange::new((1 << 32) - 2, 1),
            29 => BlockRange::new(0, VOLUME_BLOCKS.min(count_max)),
            28 => BlockRange::new(0, 200.min(count_max)),
            _ => BlockRange::new(first, count.min(VOLUME_BLOCKS - first)),
        }
    }

    /// Consecutive records, or pieces of a copy.
    fn records(&self, first: Lsn, script: &mut Script<'_>) -> Vec<Record> {
        let first = first.0.clamp(1, u64::MAX - 16);
        let count = 1 + u64::from(script.below(4));
        let record = |lsn: u64| {
            let kind =
                script.pick(&[RecordKind::Write, RecordKind::Write, RecordKind::Zeroes, RecordKind::Trim]);
            match kind {
                RecordKind::Write => {
                    let range = self.block_range(RECORD_BLOCKS_MAX, script);
                    let bytes = vec![script.byte(); range.count as usize * BLOCK_SIZE];
                    Record::write(Lsn(lsn), range, Bytes::from(bytes))
                }
                RecordKind::Zeroes | RecordKind::Trim => {
                    Record::zero(Lsn(lsn), kind, self.block_range(VOLUME_BLOCKS, script))
                }
            }
        };
        (first..first + count).map(record).collect()
    }

    fn batch(&self, first: Lsn, generation: GenerationId, script: &mut Script<'_>) -> Message {
        let records = self.records(first, script);
        let generation = if generation.0 == 0 { GenerationId::ZEROED } else { generation };
        Message::Records(RecordBatch { generation, stable_up_to: self.lsn(script), records })
    }

    fn progress(&self, up_to: Lsn, script: &mut Script<'_>) -> Progress {
        let behind = |lsn: Lsn, script: &mut Script<'_>| match script.rarely(4) {
            true => Lsn(lsn.0.saturating_sub(script.byte().into())),
            false => lsn,
        };
        let journaled = behind(up_to, script);
        let flushed = behind(journaled, script);
        let data_flushed = behind(flushed, script);
        let window_bytes = script.pick(&[1 << 20, 1 << 20, 0, 1, u64::MAX, 32 << 20]);
        Progress { received: up_to, journaled, flushed, data_flushed, window_bytes }
    }

    fn comparison(&self, number: u64, script: &mut Script<'_>) -> Comparison {
        let range = self.block_range(256, script);
        let block = vec![script.byte(); BLOCK_SIZE];
        let digests = vec![BlockDigest::of(&block); range.count as usize];
        Comparison { number, range, digests }
    }

    fn vote_request(&self, script: &mut Script<'_>) -> VoteRequest {
        let candidate = if script.rarely(16) { NodeId(script.below(8)) } else { self.node };
        let incarnation = self.incarnation(candidate, script);
        let mut record = self.a_record(script);
        if record.is_empty() {
            record.term = Term { number: 1, taker: 1 };
        }
        record.primary = Some(candidate);
        record.in_sync = record.in_sync.with(candidate, incarnation);
        for named in record.named().collect::<Vec<_>>() {
            if record.voters.ids[named.index()] == VoterId::default() {
                record.voters.ids[named.index()] = voter_id(named);
            }
        }
        let basis = match script.below(4) {
            0 => Basis::First,
            1 => Basis::Member { continues: self.incarnation(candidate, script) },
            2 => Basis::AllReported,
            _ => Basis::Agreement,
        };
        VoteRequest {
            round: script.byte().into(),
            stage: script.pick(&[VoteStage::Ask, VoteStage::Take]),
            candidate,
            incarnation,
            basis,
            position: self.position(script),
            record,
            peer_is_fenced: script.rarely(8),
        }
    }

    fn denial(&self, script: &mut Script<'_>) -> Denial {
        match script.below(9) {
            0 => Denial::Lease { remaining: Span(script.pick(&[1000, 3_000_000, u64::MAX])) },
            1 => Denial::PrimaryLives { primary: NodeId(script.below(8)) },
            2 => Denial::NotAMember { term: self.term(script) },
            3 => Denial::Behind { lsn: self.lsn(script) },
            4 => Denial::OlderTerm { term: self.term(script) },
            5 => Denial::EmptyRecord,
            6 => Denial::MemberLives { member: NodeId(script.below(255)) },
            7 => Denial::NotInSync { lsn: self.lsn(script) },
            _ => Denial::OtherVoters,
        }
    }

    fn vote_reply(&self, request: &VoteRequest, script: &mut Script<'_>) -> VoteReply {
        let is_denied = script.rarely(4);
        let record = match request.stage {
            VoteStage::Ask => self.record_of_its_own_or(script),
            VoteStage::Take if script.rarely(8) => self.a_record(script),
            VoteStage::Take => request.record,
        };
        VoteReply {
            round: if script.rarely(8) { script.byte().into() } else { request.round },
            stage: if script.rarely(16) { VoteStage::Take } else { request.stage },
            vote: if is_denied { Err(self.denial(script)) } else { Ok(()) },
            record,
            position: if script.rarely(4) { self.position(script) } else { request.position },
            incarnation: self.incarnation(self.node, script),
            continues: self.continues(self.node, script),
        }
    }

    /// Any message at all.
    pub fn any_message(&self, script: &mut Script<'_>) -> Message {
        match script.below(23) {
            0 => Message::State(Box::new(self.state(self.introduction(script), script))),
            1 => {
                let (role, disk) = (script.pick(&[Role::Primary, Role::Secondary]), script.pick(&DISKS));
                self.heartbeat(role, disk, script)
            }
            2 => {
                let (first, generation) = (self.lsn(script), self.generation_id(script));
                self.batch(first, generation, script)
            }
            3 => {
                let lineage = self.lineage(script);
                match lineage.newest() {
                    Some(generation) => Message::NewGeneration { generation: *generation, lineage },
                    None => Message::Flush { up_to: self.lsn(script) },
                }
            }
            4 => {
                let up_to = self.lsn(script);
                Message::Progress(self.progress(up_to, script))
            }
            5 => Message::Flush { up_to: self.lsn(script) },
            6 => Message::CatchUpFrom { end: self.lsn(script) },
            row @ 7..=13 => self.resync_message(row, script),
            20 => Message::ReadBlocks(self.read_request(script)),
            21 => {
                let asked = self.read_request(script);
                self.blocks_read(&asked, script)
            }
            22 => {
                let any = |script: &mut Script<'_>| script.pick(&[0, 1, 4096, 1 << 40]);
                let counts = SyncCounts { done: any(script), left: any(script), same: any(script) };
                Message::SyncStatus { counts, is_paused: script.flag() }
            }
            row => self.vote_message(row, script),
        }
    }

    fn read_request(&self, script: &mut Script<'_>) -> ReadRequest {
        let number = script.pick(&[1, 1, 2, 3, 4, (1 << 63) - 1]);
        ReadRequest { number, range: self.block_range(READ_BLOCKS_MAX, script) }
    }

    fn blocks_read(&self, asked: &ReadRequest, script: &mut Script<'_>) -> Message {
        let range = if script.rarely(4) { self.block_range(READ_BLOCKS_MAX, script) } else { asked.range };
        let bytes = vec![script.byte(); range.count as usize * BLOCK_SIZE];
        Message::BlocksRead(Box::new(Record::write(Lsn(asked.number), range, Bytes::from(bytes))))
    }

    /// What is said in a resync.
    fn resync_message(&self, row: u8, script: &mut Script<'_>) -> Message {
        let number = |script: &mut Script<'_>| script.pick(&[1, 1, 2, 3, 4, 5, u64::MAX, 1 << 40]);
        match row {
            7 => self.dirty_runs(script),
            8 => {
                let (start, lineage) = (self.lsn(script), self.lineage(script));
                let lineage = if lineage.is_empty() { Lineage::zeroed() } else { lineage };
                Message::ResyncFrom { start, lineage }
            }
            9 => Message::Copies(self.records(Lsn(number(script)), script)),
            10 => Message::CopiesFlushed { up_to: number(script) },
            11 => Message::ResyncEnd { consistent_at: self.lsn(script) },
            12 => Message::Compare(self.comparison(number(script), script)),
            _ => Message::Compared(Compared { number: number(script), differing: self.differing(script) }),
        }
    }

    /// What voters say, and the last words.
    pub fn vote_message(&self, row: u8, script: &mut Script<'_>) -> Message {
        let record = Box::new(self.a_record(script));
        match row {
            14 => Message::VoteRequest(Box::new(self.vote_request(script))),
            15 => {
                let request = self.vote_request(script);
                Message::VoteReply(Box::new(self.vote_reply(&request, script)))
            }
            16 if !record.is_empty() => Message::RecordUpdate(record),
            17 if !record.is_empty() => Message::RecordPassedOn(record),
            16..=18 => Message::RecordStored(record),
            _ => Message::Farewell {
                reason: script.pick(&[
                    FarewellReason::Stopping,
                    FarewellReason::Disconnected,
                    FarewellReason::UnknownVoter,
                    FarewellReason::StoppingOutdated,
                    FarewellReason::DisconnectedOutdated,
                ]),
            },
        }
    }

    fn heartbeat(&self, role: Role, disk: DiskState, script: &mut Script<'_>) -> Message {
        let mut flushed = [Lsn::ZERO; REPLICAS_MAX];
        let mut stable_up_to = Lsn::ZERO;
        if role == Role::Primary {
            stable_up_to = self.lsn(script);
            flushed[..4].iter_mut().for_each(|lsn| *lsn = self.lsn(script));
        }
        Message::Heartbeat { role, disk, stable_up_to, flushed }
    }

    fn dirty_runs(&self, script: &mut Script<'_>) -> Message {
        let runs = (0..script.below(4)).map(|_| self.block_range(VOLUME_BLOCKS, script)).collect();
        Message::DirtyRuns { runs, is_last: !script.rarely(4) }
    }

    fn differing(&self, script: &mut Script<'_>) -> Differing {
        let mut differing = Differing::default();
        for _ in 0..script.below(4) {
            differing.insert(script.byte().into());
        }
        differing
    }

    /// What an honest peer would say to a message of the replica, if anything.
    pub fn answers(&self, message: &Message, script: &mut Script<'_>) -> Vec<Message> {
        let progress = |up_to: Lsn| Progress {
            received: up_to,
            journaled: up_to,
            flushed: up_to,
            data_flushed: Lsn::ZERO,
            window_bytes: 1 << 20,
        };
        match message {
            Message::State(said) if usize::from(self.node.0) < usize::from(self.voters) => {
                vec![Message::State(Box::new(self.honest_state(said, script)))]
            }
            Message::Heartbeat { .. } => {
                vec![self.heartbeat(Role::Secondary, DiskState::Consistent, script)]
            }
            Message::Records(batch) => {
                vec![Message::Progress(progress(batch.records.last().map_or(Lsn::ZERO, |record| record.lsn)))]
            }
            Message::Flush { up_to } => vec![Message::Progress(progress(*up_to))],
            Message::CatchUpFrom { end } => {
                vec![self.batch(Lsn(end.0 + 1), self.lineage.newest_id(), script)]
            }
            Message::DirtyRuns { is_last: true, .. } => {
                let lineage = if self.lineage.is_empty() { Lineage::zeroed() } else { self.lineage.clone() };
                let start = self.marks[usize::from(script.below(4))];
                vec![Message::ResyncFrom { start, lineage }]
            }
            Message::ResyncFrom { start, .. } => {
                vec![Message::CatchUpFrom { end: *start }, Message::Progress(progress(*start))]
            }
            Message::Copies(pieces) => {
                vec![Message::CopiesFlushed { up_to: pieces.last().map_or(1, |piece| piece.lsn.0) }]
            }
            Message::Compare(question) => {
                let differing = if script.flag() { self.differing(script) } else { Differing::default() };
                let up_to = question.number;
                vec![
                    Message::Compared(Compared { number: up_to, differing }),
                    Message::CopiesFlushed { up_to },
                ]
            }
            Message::ResyncEnd { .. } => {
                let mut state = self.state(self.introduction(script) + 1, script);
                state.disk = DiskState::Consistent;
                vec![Message::State(Box::new(state))]
            }
            Message::VoteRequest(request) => {
                vec![Message::VoteReply(Box::new(self.vote_reply(request, script)))]
            }
            Message::RecordUpdate(record) | Message::RecordPassedOn(record) => {
                vec![Message::RecordStored(record.clone())]
            }
            Message::ReadBlocks(asked) => vec![self.blocks_read(asked, script)],
            Message::State(_)
            | Message::BlocksRead(_)
            | Message::SyncStatus { .. }
            | Message::DirtyRuns { .. }
            | Message::NewGeneration { .. }
            | Message::Progress(_)
            | Message::CopiesFlushed { .. }
            | Message::Compared(_)
            | Message::VoteReply(_)
            | Message::RecordStored(_)
            | Message::Farewell { .. } => Vec::new(),
        }
    }

    /// A state of a peer that has the same history, up to some write, or goes on behind it.
    fn honest_state(&self, said: &PeerState, script: &mut Script<'_>) -> PeerState {
        if script.rarely(4) {
            return self.state(said.introduction, script);
        }
        let role = match (said.role, script.below(4)) {
            (Role::Primary, _) | (_, 0 | 1) => Role::Secondary,
            _ => Role::Primary,
        };
        let end = match script.below(4) {
            0 | 1 => said.end,
            2 => Lsn(said.end.0.saturating_add(u64::from(script.byte()))),
            _ => Lsn(said.end.0.saturating_sub(u64::from(script.byte()))),
        };
        let mut lineage = said.lineage.clone();
        if script.rarely(4) {
            lineage = self.lineage(script);
        }
        PeerState {
            node: self.node,
            role,
            disk: if role == Role::Primary { DiskState::UpToDate } else { DiskState::Consistent },
            lineage,
            end,
            flushed: end,
            stable: Lsn::ZERO,
            oldest_kept: Lsn(1),
            base: if script.flag() { said.base } else { (GenerationId::default(), Lsn::ZERO) },
            has_dirty_bits: script.rarely(4),
            resync_from: None,
            follows_another: false,
            discards: Discards::Nothing,
            is_tentative: said.is_tentative,
            record: self.record_of_its_own_or(script),
            incarnation: usual_incarnation(self.node),
            continues: None,
            ..said.clone()
        }
    }

    /// The term that its frames carry.
    pub fn frame_term(&self, script: &mut Script<'_>) -> Term {
        if script.rarely(8) { self.term(script) } else { self.record.term }
    }
}
