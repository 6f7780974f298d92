//! The assignors that the coordinator has (KIP-848, "server side assignors"): who shall get what.

use super::state::Assignment;
use kafscale_codec::types::TopicId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Passes over all topics in which the uniform assignor evens out subscriptions that differ. Each pass brings loads
/// closer; what is uneven after the last one stays so until the next epoch.
const PASSES_MAX: usize = 8;

/// What there is to share, and who takes part.
#[derive(Debug, Default)]
pub struct Shares<'a> {
    /// Partition counts of all subscribed topics.
    pub topics: BTreeMap<TopicId, i32>,
    /// By member id.
    pub members: BTreeMap<&'a str, Member<'a>>,
    /// The racks of partitions' leaders, as far as known.
    pub racks: BTreeMap<(TopicId, i32), &'a str>,
}

/// One who takes part.
#[derive(Debug)]
pub struct Member<'a> {
    /// Set by static members: it outlives the member id.
    pub instance_id: Option<&'a str>,
    /// Where it stands, if it says so.
    pub rack: Option<&'a str>,
    /// Topics of [`Shares::topics`] that it subscribes to.
    pub subscribed: BTreeSet<TopicId>,
    /// What it had in the target before.
    pub had: &'a Assignment,
}

/// An assignor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    /// Everybody gets as much as the others, and keeps what it has as far as that allows.
    Uniform,
    /// Of each topic a member gets neighbouring partitions, and of topics with as many partitions the same ones.
    Range,
}

impl Assignor {
    /// All of them; the first is the default, as in Kafka.
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    /// Its name for clients.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// The assignor of this name.
    pub fn by_name(name: &str) -> Option<Assignor> {
        Assignor::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// Gives each partition of a subscribed topic to exactly one member that subscribes to it.
    pub fn assign<'a>(self, shares: &Shares<'a>) -> BTreeMap<&'a str, Assignment> {
        match self {
            Assignor::Range => range(shares),
            Assignor::Uniform => uniform(shares),
        }
    }
}

/// The members in an order that a restart of static members does not change.
fn in_order<'a>(shares: &Shares<'a>) -> Vec<&'a str> {
    let mut ids: Vec<&'a str> = shares.members.keys().copied().collect();
    ids.sort_by_key(|id| {
        let instance = shares.members[id].instance_id;
        (instance.is_none(), instance.unwrap_or(id), *id)
    });
    ids
}

fn range<'a>(shares: &Shares<'a>) -> BTreeMap<&'a str, Assignment> {
    let ids = in_order(shares);
    let mut result: BTreeMap<&str, Assignment> = ids.iter().map(|id| (*id, Assignment::new())).collect();
    for (topic_id, count) in &shares.topics {
        let takers: Vec<&str> = ids
            .iter()
            .copied()
            .filter(|id| shares.members[id].subscribed.contains(topic_id))
            .collect();
        if takers.is_empty() {
            continue;
        }
        let each = *count as usize / takers.len();
        let one_more = *count as usize % takers.len();
        let mut next = 0;
        for (place, id) in takers.iter().enumerate() {
            let take = each + usize::from(place < one_more);
            let partitions: BTreeSet<i32> = (next..next + take).map(|index| index as i32).collect();
            next += take;
            if let (false, Some(assignment)) = (partitions.is_empty(), result.get_mut(id)) {
                assignment.insert(*topic_id, partitions);
            }
        }
    }
    result
}

/// Who has what while it is being worked out.
struct Dealer<'a, 's> {
    shares: &'s Shares<'a>,
    ids: Vec<&'a str>,
    /// By place in `ids`.
    has: Vec<Assignment>,
    loads: Vec<usize>,
}

fn uniform<'a>(shares: &Shares<'a>) -> BTreeMap<&'a str, Assignment> {
    let ids = in_order(shares);
    let mut dealer = Dealer {
        has: vec![Assignment::new(); ids.len()],
        loads: vec![0; ids.len()],
        ids,
        shares,
    };
    let free = dealer.keep_what_was_had();
    let mut subscriptions = shares.members.values().map(|member| &member.subscribed);
    let first = subscriptions.next();
    if subscriptions.all(|subscribed| Some(subscribed) == first) {
        dealer.deal_evenly(free);
    } else {
        dealer.deal_to_the_least_loaded(free);
    }
    let Dealer { ids, has, .. } = dealer;
    ids.into_iter().zip(has).collect()
}

impl Dealer<'_, '_> {
    fn give(&mut self, place: usize, topic_id: TopicId, partition: i32) {
        self.has[place].entry(topic_id).or_default().insert(partition);
        self.loads[place] += 1;
    }

    fn take(&mut self, place: usize, topic_id: TopicId) -> Option<i32> {
        let partitions = self.has[place].get_mut(&topic_id)?;
        let partition = partitions.pop_last()?;
        if partitions.is_empty() {
            self.has[place].remove(&topic_id);
        }
        self.loads[place] -= 1;
        Some(partition)
    }

    /// Everybody keeps what it had and may still have; the rest is free.
    fn keep_what_was_had(&mut self) -> Vec<(TopicId, i32)> {
        let shares = self.shares;
        let mut kept: BTreeSet<(TopicId, i32)> = BTreeSet::new();
        for place in 0..self.ids.len() {
            let member = &shares.members[self.ids[place]];
            for (topic_id, partitions) in member.had {
                let count = shares.topics.get(topic_id).copied().unwrap_or_default();
                if !member.subscribed.contains(topic_id) {
                    continue;
                }
                for partition in partitions.iter().copied().filter(|index| (0..count).contains(index)) {
                    if kept.insert((*topic_id, partition)) {
                        self.give(place, *topic_id, partition);
                    }
                }
            }
        }
        let mut members = shares.members.values();
        let wanted: BTreeSet<TopicId> = members
            .by_ref()
            .flat_map(|member| member.subscribed.iter().copied())
            .collect();
        let topics = shares.topics.iter().filter(|(topic_id, _)| wanted.contains(topic_id));
        let all = topics.flat_map(|(topic_id, count)| (0..*count).map(|index| (*topic_id, index)));
        all.filter(|partition| !kept.contains(partition)).collect()
    }

    /// All subscribe to the same: nobody has two more than another, and as little as possible moves.
    fn deal_evenly(&mut self, mut free: Vec<(TopicId, i32)>) {
        if self.ids.is_empty() {
            return;
        }
        let total: usize = self.loads.iter().sum::<usize>() + free.len();
        let each = total / self.ids.len();
        let mut one_more = total % self.ids.len();
        let mut by_load: Vec<usize> = (0..self.ids.len()).collect();
        by_load.sort_by_key(|place| (std::cmp::Reverse(self.loads[*place]), *place));
        let mut quotas = vec![each; self.ids.len()];
        for place in &by_load {
            if one_more > 0 {
                quotas[*place] += 1;
                one_more -= 1;
            }
            while self.loads[*place] > quotas[*place] {
                // From the topic that it has most of, so that topics stay spread too.
                let richest = self.has[*place].iter().max_by_key(|(_, partitions)| partitions.len());
                let Some(topic_id) = richest.map(|(topic_id, _)| *topic_id) else {
                    break;
                };
                free.extend(self.take(*place, topic_id).map(|partition| (topic_id, partition)));
            }
        }
        free.sort_unstable();
        let free = self.deal_within_racks(free, &quotas);
        // One at a time, so that a topic's partitions go to different members.
        let mut takers: VecDeque<usize> = (0..self.ids.len())
            .filter(|place| self.loads[*place] < quotas[*place])
            .collect();
        for (topic_id, partition) in free {
            let Some(place) = takers.pop_front() else { break };
            self.give(place, topic_id, partition);
            if self.loads[place] < quotas[place] {
                takers.push_back(place);
            }
        }
    }

    /// A free partition goes to a member in its leader's rack, if one has room: reads within a rack are cheap. What members
    /// have they keep, wherever it is led now. Returns what is left.
    fn deal_within_racks(&mut self, free: Vec<(TopicId, i32)>, quotas: &[usize]) -> Vec<(TopicId, i32)> {
        let mut takers: BTreeMap<&str, VecDeque<usize>> = BTreeMap::new();
        for (place, id) in self.ids.iter().enumerate() {
            let rack = self.shares.members[id]
                .rack
                .filter(|_| self.loads[place] < quotas[place]);
            if let Some(rack) = rack {
                takers.entry(rack).or_default().push_back(place);
            }
        }
        let mut left = Vec::new();
        for partition in free {
            let rack = self.shares.racks.get(&partition);
            let takers = rack.and_then(|rack| takers.get_mut(rack));
            let Some((takers, place)) = takers.and_then(|takers| takers.pop_front().map(|place| (takers, place)))
            else {
                left.push(partition);
                continue;
            };
            self.give(place, partition.0, partition.1);
            if self.loads[place] < quotas[place] {
                takers.push_back(place);
            }
        }
        left
    }

    /// Subscriptions differ: topics with few subscribers first, each partition to who has least.
    fn deal_to_the_least_loaded(&mut self, free: Vec<(TopicId, i32)>) {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (place, id) in self.ids.iter().enumerate() {
            for topic_id in &self.shares.members[id].subscribed {
                subscribers.entry(*topic_id).or_default().push(place);
            }
        }
        let mut free_of: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        for (topic_id, partition) in free {
            free_of.entry(topic_id).or_default().push(partition);
        }
        let mut order: Vec<(usize, TopicId)> = subscribers.iter().map(|(id, places)| (places.len(), *id)).collect();
        order.sort_unstable();
        for (_, topic_id) in &order {
            let mut takers = self.by_load(&subscribers[topic_id]);
            for partition in free_of.remove(topic_id).unwrap_or_default() {
                let Some((_, place)) = takers.pop_first() else { break };
                self.give(place, *topic_id, partition);
                takers.insert((self.loads[place], place));
            }
        }
        for _ in 0..PASSES_MAX {
            let mut moved = false;
            for (_, topic_id) in &order {
                moved |= self.even_out(*topic_id, &subscribers[topic_id]);
            }
            if !moved {
                break;
            }
        }
    }

    fn by_load(&self, places: &[usize]) -> BTreeSet<(usize, usize)> {
        places.iter().map(|place| (self.loads[*place], *place)).collect()
    }

    /// Moves partitions of a topic from who has most to who has least.
    fn even_out(&mut self, topic_id: TopicId, subscribers: &[usize]) -> bool {
        let mut takers = self.by_load(subscribers);
        let mut owners: BTreeSet<(usize, usize)> = takers.clone();
        owners.retain(|(_, place)| self.has[*place].contains_key(&topic_id));
        let mut moved = false;
        while let (Some(&(least, taker)), Some(&(most, owner))) = (takers.first(), owners.last()) {
            if most <= least + 1 {
                break;
            }
            let Some(partition) = self.take(owner, topic_id) else {
                break;
            };
            self.give(taker, topic_id, partition);
            moved = true;
            takers.remove(&(least, taker));
            takers.remove(&(most, owner));
            owners.remove(&(most, owner));
            owners.remove(&(least, taker));
            for place in [taker, owner] {
                takers.insert((self.loads[place], place));
                if self.has[place].contains_key(&topic_id) {
                    owners.insert((self.loads[place], place));
                }
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(n: u8) -> TopicId {
        TopicId([n; 16])
    }

    /// Checks what every assignor owes, and gives the sizes.
    fn check(shares: &Shares, result: &BTreeMap<&str, Assignment>) -> Vec<usize> {
        let mut owners: BTreeMap<(TopicId, i32), &str> = BTreeMap::new();
        for (id, assignment) in result {
            for (topic_id, partitions) in assignment {
                assert!(!partitions.is_empty(), "no topic without partitions");
                assert!(shares.members[id].subscribed.contains(topic_id), "not subscribed");
                for partition in partitions {
                    assert!((0..shares.topics[topic_id]).contains(partition), "no such partition");
                    assert!(owners.insert((*topic_id, *partition), id).is_none(), "assigned twice");
                }
            }
        }
        let wanted = |id: &&TopicId| shares.members.values().any(|member| member.subscribed.contains(*id));
        let expected: i32 = shares.topics.keys().filter(wanted).map(|id| shares.topics[id]).sum();
        assert_eq!(owners.len(), expected as usize, "a partition was left");
        result
            .values()
            .map(|assignment| assignment.values().map(BTreeSet::len).sum())
            .collect()
    }

    fn shares<'a>(topics: &[(u8, i32)], members: &'a [(String, BTreeSet<u8>, Assignment)]) -> Shares<'a> {
        let topics: BTreeMap<TopicId, i32> = topics.iter().map(|(id, count)| (topic(*id), *count)).collect();
        let member = |(id, subscribed, had): &'a (String, BTreeSet<u8>, Assignment)| {
            let subscribed = subscribed
                .iter()
                .map(|id| topic(*id))
                .filter(|id| topics.contains_key(id))
                .collect();
            (
                id.as_str(),
                Member {
                    instance_id: None,
                    rack: None,
                    subscribed,
                    had,
                },
            )
        };
        Shares {
            members: members.iter().map(member).collect(),
            topics,
            racks: BTreeMap::new(),
        }
    }

    fn members(subscriptions: &[&[u8]]) -> Vec<(String, BTreeSet<u8>, Assignment)> {
        let member =
            |(n, topics): (usize, &&[u8])| (format!("m{n}"), topics.iter().copied().collect(), Assignment::new());
        subscriptions.iter().enumerate().map(member).collect()
    }

    #[test]
    fn range_gives_neighbours_and_the_same_ones_of_equal_topics() {
        let members = members(&[&[1, 2], &[1, 2], &[1, 2]]);
        let shares = shares(&[(1, 7), (2, 7)], &members);
        let result = Assignor::Range.assign(&shares);
        assert_eq!(check(&shares, &result), [6, 4, 4]);
        assert_eq!(result["m0"][&topic(1)], BTreeSet::from([0, 1, 2]));
        assert_eq!(result["m0"][&topic(2)], BTreeSet::from([0, 1, 2]));
        assert_eq!(result["m2"][&topic(1)], BTreeSet::from([5, 6]));
    }

    #[test]
    fn a_newcomer_takes_its_share_and_nothing_else_moves() {
        let mut members = members(&[&[1], &[1]]);
        let before: Vec<Assignment> = {
            let shares = shares(&[(1, 9)], &members);
            let result = Assignor::Uniform.assign(&shares);
            assert_eq!(check(&shares, &result), [5, 4]);
            result.into_values().collect()
        };
        for (member, had) in members.iter_mut().zip(before) {
            member.2 = had;
        }
        members.push(("m2".into(), BTreeSet::from([1]), Assignment::new()));
        let shares = shares(&[(1, 9)], &members);
        let result = Assignor::Uniform.assign(&shares);
        assert_eq!(check(&shares, &result), [3, 3, 3]);
        for (id, _, had) in &members[..2] {
            assert!(
                result[id.as_str()][&topic(1)].is_subset(&had[&topic(1)]),
                "something moved without need"
            );
        }
    }

    #[test]
    fn free_partitions_go_to_the_rack_of_their_leader_as_far_as_shares_allow() {
        let members = members(&[&[1], &[1], &[1]]);
        let mut shares = shares(&[(1, 6)], &members);
        let racks = [("m0", "a"), ("m1", "b"), ("m2", "b")];
        for (id, rack) in racks {
            shares.members.get_mut(id).expect("a member").rack = Some(rack);
        }
        // Four are led in a, where one member has room for two of them.
        shares.racks = [(0, "b"), (1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "c")]
            .map(|(partition, rack)| ((topic(1), partition), rack))
            .into();
        let result = Assignor::Uniform.assign(&shares);
        assert_eq!(check(&shares, &result), [2, 2, 2]);
        assert_eq!(result["m0"][&topic(1)], BTreeSet::from([1, 2]));
        assert!(result["m1"][&topic(1)].contains(&0));
    }

    #[test]
    fn who_alone_subscribes_to_much_gets_nothing_of_what_others_can_take() {
        let members = members(&[&[1, 2], &[2]]);
        let shares = shares(&[(1, 4), (2, 4)], &members);
        let result = Assignor::Uniform.assign(&shares);
        assert_eq!(check(&shares, &result), [4, 4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn everything_is_assigned_once_and_evenly(
            topics in proptest::collection::btree_map(0..6u8, 0..12i32, 0..5),
            subscriptions in proptest::collection::vec(proptest::collection::btree_set(0..6u8, 0..6), 1..7),
            alike in any::<bool>(),
            leaver in any::<prop::sample::Index>(),
        ) {
            let topics: Vec<(u8, i32)> = topics.into_iter().collect();
            let same = subscriptions[0].clone();
            let mut members: Vec<(String, BTreeSet<u8>, Assignment)> = subscriptions
                .into_iter()
                .enumerate()
                .map(|(n, topics)| (format!("m{n}"), if alike { same.clone() } else { topics }, Assignment::new()))
                .collect();
            {
                let shares = shares(&topics, &members);
                check(&shares, &Assignor::Range.assign(&shares));
            }
            // Twice, with what was had before; then one leaves.
            for round in 0..3 {
                if round == 2 && members.len() > 1 {
                    members.remove(leaver.index(members.len()));
                }
                let result: Vec<Assignment> = {
                    let shares = shares(&topics, &members);
                    let result = Assignor::Uniform.assign(&shares);
                    let sizes = check(&shares, &result);
                    let (least, most) = (sizes.iter().min().expect("members"), sizes.iter().max().expect("members"));
                    prop_assert!(!alike || most - least <= 1, "uneven: {sizes:?}");
                    result.into_values().collect()
                };
                for (member, now) in members.iter_mut().zip(result) {
                    prop_assert!(round != 1 || member.2 == now || !alike, "something moved though nothing changed");
                    if round == 2 && alike {
                        for (topic_id, partitions) in &member.2 {
                            let kept = now.get(topic_id).cloned().unwrap_or_default();
                            prop_assert!(partitions.is_subset(&kept), "who stays keeps what it has when one leaves");
                        }
                    }
                    member.2 = now;
                }
            }
        }
    }
}
