//! ConsumerGroupDescribe.

use super::super::group::Group;
use super::state::Assignment;
use crate::cluster::image::ClusterImage;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{
    DescribedAssignment, DescribedConsumerGroup, DescribedConsumerGroupMember, DescribedTopicPartitions,
};

/// Who speaks the classic protocol, in ConsumerGroupDescribe.
const CLASSIC: i8 = 0;

/// Who speaks the consumer protocol, in ConsumerGroupDescribe.
const CONSUMER: i8 = 1;

impl Group {
    /// ConsumerGroupDescribe.
    pub fn describe_consumer(&self, image: &ClusterImage) -> DescribedConsumerGroup {
        let Some(state) = self.consumer.as_ref().filter(|_| self.members.is_empty()) else {
            return not_described(&self.id, format!("Group {} is not a consumer group.", self.id));
        };
        let members = state.members.iter().map(|(id, member)| DescribedConsumerGroupMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            rack_id: member.rack_id.clone(),
            member_epoch: member.epoch,
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            subscribed_topic_names: member.topics.iter().cloned().collect(),
            subscribed_topic_regex: Some(member.regex.clone().unwrap_or_default()),
            // What a member has not given up yet is still its own.
            assignment: described(&union(&member.assigned, &member.revoking), image),
            target_assignment: described(&member.target, image),
            member_type: if member.classic.is_some() { CLASSIC } else { CONSUMER },
        });
        DescribedConsumerGroup {
            group_id: self.id.clone(),
            group_state: state.name().to_string(),
            group_epoch: state.epoch,
            assignment_epoch: state.target_epoch,
            assignor_name: state.assignor.clone(),
            members: members.collect(),
            ..DescribedConsumerGroup::default()
        }
    }
}

fn union(one: &Assignment, other: &Assignment) -> Assignment {
    let mut both = one.clone();
    for (topic_id, partitions) in other {
        both.entry(*topic_id).or_default().extend(partitions);
    }
    both
}

/// What is said of a group that is none of these.
pub fn not_described(group_id: &str, message: String) -> DescribedConsumerGroup {
    DescribedConsumerGroup {
        error_code: ErrorCode::GROUP_ID_NOT_FOUND,
        error_message: Some(message),
        group_id: group_id.to_string(),
        ..DescribedConsumerGroup::default()
    }
}

/// What is said of the group without a name, which no consumer can be in.
pub fn without_id() -> DescribedConsumerGroup {
    DescribedConsumerGroup {
        error_code: ErrorCode::INVALID_GROUP_ID,
        ..DescribedConsumerGroup::default()
    }
}

/// Topics that are gone are left out.
fn described(assignment: &Assignment, image: &ClusterImage) -> DescribedAssignment {
    let topics = assignment.iter().filter_map(|(topic_id, partitions)| {
        Some(DescribedTopicPartitions {
            topic_id: *topic_id,
            topic_name: image.names.get(topic_id)?.clone(),
            partitions: partitions.iter().copied().collect(),
        })
    });
    DescribedAssignment {
        topic_partitions: topics.collect(),
    }
}
