//! Groups as people see them: members, who reads what, and how far behind.

use super::api::{Refusal, Selection};
use super::facts::*;
use super::picture::Picture;
use super::Status;
use crate::coordinator::{parse_assignment, FetchOffsets, GroupReply, GroupRequest};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::collections::BTreeMap;

/// What the coordinator tells of a group, whatever its protocol.
struct Described {
    assignor: String,
    members: Vec<MemberFacts>,
    /// Who reads a partition.
    readers: BTreeMap<(String, i32), String>,
}

impl Status {
    pub(super) async fn groups(&self, query: &str) -> Result<Page<GroupFacts>, Refusal> {
        let selection = Selection::of(query)?;
        let picture = self.picture().await?;
        let mut listed = self.listed().await?;
        listed.sort_by(|one, other| one.group_id.cmp(&other.group_id));
        let page = selection.page(listed.into_iter(), |group| &group.group_id, |group| group);
        let mut items = Vec::with_capacity(page.items.len());
        for group in page.items {
            items.push(self.detail(&picture, group).await?.group);
        }
        Ok(Page {
            items,
            matching: page.matching,
            next: page.next,
        })
    }

    pub(super) async fn group(&self, id: &str) -> Result<GroupDetail, Refusal> {
        let picture = self.picture().await?;
        let group = self.listed().await?.into_iter().find(|group| group.group_id == id);
        match group {
            Some(group) => self.detail(&picture, group).await,
            None => Err(Refusal::Missing(format!(
                "this broker does not coordinate a group {id}"
            ))),
        }
    }

    async fn listed(&self) -> Result<Vec<ListedGroup>, Refusal> {
        let list = GroupRequest::List {
            states: Vec::new(),
            types: Vec::new(),
        };
        match self.node.coordinator.call(list).await {
            GroupReply::Listed {
                error: ErrorCode::NONE,
                groups,
            } => Ok(groups),
            GroupReply::Listed { error, .. } => Err(Refusal::Unavailable(format!("groups: {error:?}"))),
            other => Err(unexpected(&other)),
        }
    }

    async fn detail(&self, picture: &Picture, listed: ListedGroup) -> Result<GroupDetail, Refusal> {
        let id = &listed.group_id;
        let described = match listed.group_type.as_str() {
            "consumer" => self.describe_consumers(id).await?,
            _ => self.describe_classic(id).await?,
        };
        let fetch = FetchOffsets {
            group_id: id.clone(),
            member_epoch: -1,
            ..FetchOffsets::default()
        };
        let committed = match self.node.coordinator.call(GroupRequest::FetchOffsets(fetch)).await {
            GroupReply::Offsets { offsets, .. } => offsets,
            other => return Err(unexpected(&other)),
        };
        let mut partitions: BTreeMap<(String, i32), Option<i64>> =
            described.readers.keys().map(|key| (key.clone(), None)).collect();
        for (topic_id, partition, offset) in committed {
            if let Some(name) = picture.image.names.get(&topic_id) {
                partitions.insert((name.clone(), partition), offset.map(|offset| offset.offset));
            }
        }
        let partitions: Vec<GroupPartition> = partitions
            .into_iter()
            .map(|(key, committed_offset)| {
                let topic_id = picture.image.topics.get(&key.0).map(|topic| topic.record.topic_id);
                let status = topic_id.and_then(|id| picture.partition(id, key.1));
                let end_offset = status.map(|status| status.high_watermark);
                GroupPartition {
                    committed_offset,
                    end_offset,
                    // A commit may be newer than the picture.
                    lag: committed_offset.zip(end_offset).map(|(at, end)| (end - at).max(0)),
                    member: described.readers.get(&key).cloned(),
                    topic: key.0,
                    partition: key.1,
                }
            })
            .collect();
        let known: Vec<i64> = partitions.iter().filter_map(|partition| partition.lag).collect();
        Ok(GroupDetail {
            group: GroupFacts {
                id: listed.group_id,
                state: listed.group_state,
                kind: listed.group_type,
                assignor: described.assignor,
                members: described.members.len(),
                lag: (!known.is_empty()).then(|| known.iter().sum()),
            },
            members: described.members,
            partitions,
        })
    }

    async fn describe_classic(&self, id: &str) -> Result<Described, Refusal> {
        let groups = vec![id.to_string()];
        let group = match self.node.coordinator.call(GroupRequest::Describe { groups }).await {
            GroupReply::Described(mut described) => described.pop().unwrap_or_default(),
            other => return Err(unexpected(&other)),
        };
        let mut described = Described::new(group.protocol_data);
        for member in group.members {
            // Members of other kinds of groups, Connect's for example, have no partitions.
            let assigned = parse_assignment(&member.member_assignment).unwrap_or_default();
            described.add(
                MemberFacts {
                    id: member.member_id,
                    instance_id: member.group_instance_id,
                    client_id: member.client_id,
                    host: member.client_host,
                    partitions: 0,
                },
                assigned.into_iter(),
            );
        }
        Ok(described)
    }

    async fn describe_consumers(&self, id: &str) -> Result<Described, Refusal> {
        let groups = vec![id.to_string()];
        let group = match self
            .node
            .coordinator
            .call(GroupRequest::DescribeConsumers { groups })
            .await
        {
            GroupReply::DescribedConsumers(mut described) => described.pop().unwrap_or_default(),
            other => return Err(unexpected(&other)),
        };
        let mut described = Described::new(group.assignor_name);
        for member in group.members {
            let assigned = member.assignment.topic_partitions.into_iter();
            described.add(
                MemberFacts {
                    id: member.member_id,
                    instance_id: member.instance_id,
                    client_id: member.client_id,
                    host: member.client_host,
                    partitions: 0,
                },
                assigned.map(|topic| (topic.topic_name, topic.partitions)),
            );
        }
        Ok(described)
    }
}

impl Described {
    fn new(assignor: String) -> Self {
        Described {
            assignor,
            members: Vec::new(),
            readers: BTreeMap::new(),
        }
    }

    fn add(&mut self, mut member: MemberFacts, assigned: impl Iterator<Item = (String, Vec<i32>)>) {
        for (topic, partitions) in assigned {
            member.partitions += partitions.len();
            for partition in partitions {
                self.readers.insert((topic.clone(), partition), member.id.clone());
            }
        }
        self.members.push(member);
    }
}

fn unexpected(reply: &GroupReply) -> Refusal {
    Refusal::Unavailable(format!("the coordinator answers with {reply:?}"))
}
