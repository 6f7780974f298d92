//! One segment, looked at from all sides: batches, footer, index and times have to tell the same.

use super::objects::{read_batches, Batches};
use kafscale_storage_engine::object_store::{ObjectStore, StoreError};
use kafscale_storage_engine::segment::{self, Index, Part, Times, FOOTER_LEN, HEADER_LEN};

/// Where a segment is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// The topic's folder.
    pub folder: String,
    /// The partition.
    pub partition: i32,
    /// Offset of the first record.
    pub base_offset: i64,
}

/// What a segment turned out to be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Offset after the last record, by the footer.
    pub next_offset: Option<i64>,
    /// Records, by the header.
    pub records: i32,
    /// When it was made, ms since the Unix epoch.
    pub created_ms: i64,
    /// Bytes of the `.kfs`.
    pub bytes: u64,
    /// Whether the body is what the footer's CRC-32C says.
    pub crc_ok: bool,
    /// Entries of the index.
    pub index_entries: Option<usize>,
    /// The time sidecar, if there is one.
    pub times: Option<Times>,
    /// What is wrong: which object, and a sentence.
    pub problems: Vec<(String, String)>,
}

impl SegmentName {
    /// Reads a key below `namespace`; `None` if it is no segment's.
    pub fn parse(namespace: &str, key: &str) -> Option<(SegmentName, Part)> {
        let rest = key.strip_prefix(namespace)?.strip_prefix('/')?;
        let mut parts = rest.split('/');
        let (folder, partition, _file) = (parts.next()?, parts.next()?, parts.next()?);
        let (base_offset, part) = segment::parse_key(key)?;
        let name = SegmentName {
            folder: folder.to_string(),
            partition: partition.parse().ok()?,
            base_offset,
        };
        // One spelling for each segment.
        (segment::key(namespace, &name.folder, name.partition, base_offset, part) == key).then_some((name, part))
    }

    /// The key of one of its objects.
    pub fn key(&self, namespace: &str, part: Part) -> String {
        segment::key(namespace, &self.folder, self.partition, self.base_offset, part)
    }
}

/// Reads all of a segment.
///
/// # Errors
/// The store's, if nothing can be said. What is missing or damaged is a problem, not an error.
pub async fn check(store: &dyn ObjectStore, namespace: &str, name: &SegmentName) -> Result<SegmentFacts, StoreError> {
    let mut facts = SegmentFacts::default();
    let key = name.key(namespace, Part::Kfs);
    let suffix = match store.get_suffix(&key, FOOTER_LEN as u64).await {
        Ok(suffix) => suffix,
        Err(StoreError::NotFound(_)) => {
            facts.problems.push((key, "is missing".to_string()));
            return Ok(facts);
        }
        Err(error) => return Err(error),
    };
    facts.bytes = suffix.object_len;
    let index_key = name.key(namespace, Part::Index);
    let index = match absent_is_none(store.get_range(&index_key, 0..u64::MAX).await)? {
        None => Err("is missing".to_string()),
        Some(bytes) => Index::parse(&bytes).map_err(|error| error.to_string()),
    };
    let entries = match &index {
        Ok(index) => {
            facts.index_entries = Some(index.entries().len());
            index.entries()
        }
        Err(why) => {
            facts.problems.push((index_key.clone(), why.clone()));
            &[]
        }
    };
    let mut pointed = 0;
    let mut problems = Vec::new();
    if facts.bytes < (HEADER_LEN + FOOTER_LEN) as u64 {
        problems.push(format!("{} bytes are too few", facts.bytes));
    } else {
        let see = |position: u64, header: &kafscale_codec::record_batch::BatchHeader| {
            let here = entries.get(pointed);
            pointed += usize::from(here.is_some_and(|entry| *entry == (header.base_offset, position as u32)));
        };
        let body = HEADER_LEN as u64..facts.bytes - FOOTER_LEN as u64;
        let batches = read_batches(store, &key, body, see).await?;
        let head = store.get_range(&key, 0..HEADER_LEN as u64).await?;
        compare(&mut facts, name, &head, &suffix.bytes, batches, &mut problems);
    }
    if pointed < entries.len() {
        let (offset, position) = entries[pointed];
        let why = format!("entry {pointed} says offset {offset} at byte {position}, where no such batch begins");
        facts.problems.push((index_key, why));
    }
    let times_key = name.key(namespace, Part::Kfst);
    if let Some(bytes) = absent_is_none(store.get_range(&times_key, 0..u64::MAX).await)? {
        match segment::parse_times(&bytes) {
            Ok(times) => {
                if times.base_offset != name.base_offset || facts.next_offset.is_some_and(|n| n != times.next_offset) {
                    let (first, next) = (times.base_offset, times.next_offset);
                    facts
                        .problems
                        .push((times_key, format!("is of offsets {first}..{next}")));
                }
                facts.times = Some(times);
            }
            Err(error) => facts.problems.push((times_key, error.to_string())),
        }
    }
    facts
        .problems
        .extend(problems.into_iter().map(|why| (key.clone(), why)));
    Ok(facts)
}

fn compare(
    facts: &mut SegmentFacts,
    name: &SegmentName,
    head: &[u8],
    suffix: &[u8],
    batches: Batches,
    problems: &mut Vec<String>,
) {
    match segment::parse_header(head) {
        Ok(header) => {
            (facts.records, facts.created_ms) = (header.records, header.created_ms);
            if header.base_offset != name.base_offset {
                problems.push(format!("its header says offset {}", header.base_offset));
            }
            if i64::from(header.records) != batches.records {
                let (said, found) = (header.records, batches.records);
                problems.push(format!("its header says {said} records, {found} were found"));
            }
        }
        Err(error) => problems.push(error.to_string()),
    }
    if batches.base_offset.is_some_and(|base| base != name.base_offset) {
        problems.push(format!(
            "its records begin at {}",
            batches.base_offset.unwrap_or_default()
        ));
    }
    match segment::parse_whole_footer(suffix) {
        Ok(footer) => {
            facts.next_offset = Some(footer.next_offset);
            facts.crc_ok = footer.crc32c == batches.crc32c;
            if !facts.crc_ok {
                problems.push("the body is damaged: CRC-32C does not match".to_string());
            }
            if batches.next_offset != Some(footer.next_offset) {
                let found = batches.next_offset.unwrap_or(name.base_offset);
                let said = footer.next_offset;
                problems.push(format!(
                    "its footer says that it ends at {said}, its records end at {found}"
                ));
            }
        }
        Err(error) => problems.push(error.to_string()),
    }
    problems.extend(batches.problems);
}

fn absent_is_none<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
