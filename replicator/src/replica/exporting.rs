//! What clients are offered: the volume, from a Primary; or, from a StandAlone Secondary and only by order, its own side
//! read-only as it was left, so that an administrator can fetch what is about to be lost.
//!
//! Rule: reading the own side changes nothing on the disk, and it ends before anything else may change there: when this
//! node is to be promoted, replicates again, discards what it wrote, or loses its disk.

use crate::effect::{Answer, Effect, Effects, ExportState};
use crate::event::{OrderId, Request};
use crate::notice::Notice;
use crate::promotion::refusal::{RefusalCode, Refused};
use crate::state::{ConnectionState, DiskState, Role};

use super::Replica;
use super::links::Replication;
use super::status::connection_state;

impl Replica {
    pub(super) fn on_serve_as_was(&mut self, order: OrderId, is_wanted: bool, effects: &mut Effects) {
        let resource = self.config.resource.clone();
        let answer = match (is_wanted, self.as_was_refusal().or_else(|| self.is_not_stand_alone())) {
            (false, _) if !self.serves_as_was => {
                Answer::Done { text: format!("{resource} is not served as it was") }
            }
            (false, _) => {
                self.end_as_was("by order", effects);
                Answer::Done { text: format!("{resource} is not served as it was any more") }
            }
            (true, Some((name, reason, cure))) => {
                Answer::Refused(Refused { code: RefusalCode::StateChange, name, reason, cure })
            }
            (true, None) => {
                self.serves_as_was = true;
                let text = format!(
                    "this side of {resource} is served read-only as export `{}`, until this node replicates again, is \
                     promoted or discards its writes; `twinblk serve {resource} --read-only --as-was --stop` ends it",
                    self.as_was_name()
                );
                effects.push(Effect::Notify(Notice::warning("serves-as-was", text.clone())));
                Answer::Done { text }
            }
        };
        self.answer(order, answer, effects);
    }

    /// The export of the own side: another name than the volume's, so that nobody takes it for that.
    fn as_was_name(&self) -> String {
        format!("{}-as-was", self.config.resource)
    }

    /// Why this side may not be served, not even on: name, reason, cure. A link that comes and goes alone changes nothing.
    fn as_was_refusal(&self) -> Option<(&'static str, String, String)> {
        let resource = &self.config.resource;
        let replicas = || self.peers.iter().filter(|peer| peer.is_replica());
        let is_apart = |replication: &Replication| match replication {
            Replication::Stopped | Replication::Introducing => true,
            Replication::Idle | Replication::Source(_) | Replication::Target => false,
        };
        let together =
            replicas().find(|peer| peer.link.as_ref().is_some_and(|link| !is_apart(&link.replication)));
        let is_discarding = self.discard.as_ref().is_some_and(|discard| discard.is_in_earnest());
        if self.role == Role::Primary || self.candidacy.is_some() {
            let reason = "this node is Primary: its clients see its side already".to_owned();
            return Some(("is-primary", reason, "read from the volume itself".to_owned()));
        }
        if self.disk_fault.is_some() || self.disk <= DiskState::Inconsistent {
            let reason = format!("the local disk is {}: it holds no side that could be read", self.disk);
            return Some(("disk-inconsistent", reason, "none: fetch it from a backup".to_owned()));
        }
        if is_discarding || self.is_stopping {
            let reason = "this node is about to discard its side, or stops".to_owned();
            return Some(("discarding", reason, format!("see `twinblk status {resource}`")));
        }
        let peer = together?;
        let reason = format!("this node replicates with {}", self.name_of(peer.node));
        let cure = "none is needed: what it holds is what the Primary serves, or older".to_owned();
        Some(("connected", reason, cure))
    }

    /// Before it begins the node has to be apart from somebody, by a verdict or by order.
    fn is_not_stand_alone(&self) -> Option<(&'static str, String, String)> {
        let mut replicas = self.peers.iter().filter(|peer| peer.is_replica());
        let is_stand_alone = replicas.any(|peer| connection_state(peer) == ConnectionState::StandAlone);
        (!is_stand_alone).then(|| {
            let reason = "this node is not StandAlone: it may replicate again at any moment".to_owned();
            let cure = format!("`twinblk disconnect {}` first", self.config.resource);
            ("not-stand-alone", reason, cure)
        })
    }

    /// Ends the service when it may not go on.
    pub(super) fn advance_as_was(&mut self, effects: &mut Effects) {
        if self.serves_as_was
            && let Some((_, reason, _)) = self.as_was_refusal()
        {
            self.end_as_was(&reason, effects);
        }
    }

    fn end_as_was(&mut self, why: &str, effects: &mut Effects) {
        self.serves_as_was = false;
        self.reads.forget();
        effects.push(Effect::DropClients);
        let text = format!("{} is not served as it was any more: {why}", self.config.resource);
        effects.push(Effect::Notify(Notice::info("as-was-ended", text)));
    }

    /// Whether clients of this node are served: all of what they ask, or only what changes nothing.
    pub(super) fn serves(&self, request: &Request) -> bool {
        let is_read = matches!(request, Request::Read { .. } | Request::BlockStatus { .. } | Request::Flush);
        match self.role {
            Role::Primary => self.demotion.is_none(),
            Role::Secondary | Role::Unknown => self.serves_as_was && is_read,
        }
    }

    /// Tells the listeners whether clients are served, when that changes.
    pub(super) fn update_export(&mut self, effects: &mut Effects) {
        let export = match self.role {
            Role::Primary if self.demotion.is_none() => ExportState::Serving,
            Role::Secondary if self.serves_as_was => {
                ExportState::AsWas { name: self.as_was_name(), text: self.refusal_text() }
            }
            Role::Primary | Role::Secondary | Role::Unknown => {
                ExportState::Refused { text: self.refusal_text() }
            }
        };
        if self.export.as_ref() != Some(&export) {
            self.export = Some(export.clone());
            effects.push(Effect::SetExport { export });
        }
    }

    /// What a client is told that comes to the wrong node.
    fn refusal_text(&self) -> String {
        let (resource, own) = (&self.config.resource, self.name_of(self.config.local));
        match self.peers.iter().find(|peer| peer.role == Role::Primary) {
            Some(primary) => {
                format!("{resource} is Secondary on {own}; Primary is {}", self.name_of(primary.node))
            }
            None => format!("{resource} is Secondary on {own}; no Primary is known"),
        }
    }
}
