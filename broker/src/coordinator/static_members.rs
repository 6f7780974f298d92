//! Static members (KIP-345): a member with an instance id may restart within its session and keep what it had.

use super::api::{join_error, GroupReply, Join, ReplyToken};
use super::group::{Ctx, Group, Phase};
use super::ledger::After;
use super::subscription;
use kafscale_codec::error_code::ErrorCode;

impl Group {
    /// A static member came back without its member id (KIP-345): it gets a new one, and the old one is fenced.
    pub(super) fn rejoin_static(
        &mut self,
        ctx: &mut Ctx,
        token: ReplyToken,
        join: &Join,
        old_id: String,
        new_id: String,
    ) {
        if self.phase == Phase::Stable && self.keeps_assignment(join, &old_id) {
            let mut state = self.stored.clone().expect("a stable group is stored");
            if let Some(mut member) = state.members.remove(&old_id) {
                member.client_id.clone_from(&join.client_id);
                member.client_host.clone_from(&join.client_host);
                member.session_timeout_ms = join.session_timeout_ms;
                member.rebalance_timeout_ms = join.rebalance_timeout_ms;
                state.members.insert(new_id.clone(), member);
            }
            if self.is_leader(&old_id) {
                state.leader = Some(new_id.clone());
            }
            let join = Box::new(join.clone());
            let after = After::Replaced {
                token,
                old_id,
                new_id,
                join,
            };
            let records = vec![self.state_record(Some(state))];
            self.write(ctx, records, after);
            return;
        }
        self.rename_member(ctx, &old_id, &new_id);
        self.update_member(ctx, token, join, &new_id);
        self.rebalance_or_complete(ctx);
    }

    /// As in Kafka, another selected protocol takes a rebalance. So do other topics, which Kafka overlooks.
    fn keeps_assignment(&self, join: &Join, old_id: &str) -> bool {
        let Some(member) = self.members.get(old_id) else {
            return false;
        };
        let Some(protocol) = self.protocol_name() else {
            return false;
        };
        let selected = self.select_protocol(Some((old_id, &join.protocols))).as_ref() == Some(&protocol);
        let metadata = join.protocols.iter().find(|(name, _)| *name == protocol);
        let topics = metadata.and_then(|(_, metadata)| subscription::topics(metadata));
        selected && topics == subscription::topics(&member.metadata(&protocol))
    }

    /// The new member id of a static member is stored, or not.
    pub fn replaced(
        &mut self,
        ctx: &mut Ctx,
        token: ReplyToken,
        (old_id, new_id): (String, String),
        join: &Join,
        error: Option<ErrorCode>,
    ) {
        if let Some(error) = error {
            ctx.reply(token, GroupReply::Join(join_error(&join.member_id, error)));
            return;
        }
        let led = self.is_leader(&old_id);
        self.rename_member(ctx, &old_id, &new_id);
        if let Some(member) = self.members.get_mut(&new_id) {
            member.take_over(join);
            member.restart_session(ctx.now);
        }
        let mut reply = self.join_reply(&new_id);
        if led && join.supports_skip_assignment {
            reply.skip_assignment = true;
        } else if led {
            // Only a leader assigns, and nothing is to be assigned: so it is told that its former self leads.
            reply.leader = old_id;
            reply.members.clear();
        }
        ctx.reply(token, GroupReply::Join(reply));
    }

    fn rename_member(&mut self, ctx: &mut Ctx, old_id: &str, new_id: &str) {
        let led = self.is_leader(old_id);
        let pending_sync = self.pending_sync.contains(old_id);
        let Some(member) = self.drop_member(ctx, old_id, ErrorCode::FENCED_INSTANCE_ID) else {
            return;
        };
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), new_id.to_string());
        }
        if led {
            self.leader = Some(new_id.to_string());
        }
        if pending_sync {
            self.pending_sync.insert(new_id.to_string());
        }
        self.members.insert(new_id.to_string(), member);
    }
}
