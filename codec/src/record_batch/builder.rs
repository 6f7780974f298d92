//! Building batches: for clients (tests, bench, simulation) and for the conversion of old message sets.

use super::records::{put_varlong, Header};
use super::{CRC_FROM, HEADER_LEN, LENGTH_PREFIX, TIMESTAMP_TYPE_BIT};
use crate::compression::{self, Compression, CompressionError};
use bytes::{BufMut, Bytes, BytesMut};

/// Collects records into one batch of magic 2 with base offset 0.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    compression: Compression,
    log_append_time: bool,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    records: Vec<u8>,
    scratch: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder {
            compression: Compression::None,
            log_append_time: false,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
            count: 0,
            records: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

impl BatchBuilder {
    /// A batch without compression and without idempotence.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compresses the records.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Marks the timestamps as a broker's.
    pub fn log_append_time(mut self, yes: bool) -> Self {
        self.log_append_time = yes;
        self
    }

    /// Makes the batch an idempotent producer's.
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (producer_id, producer_epoch, base_sequence);
        self
    }

    /// Adds a record; `timestamp` in ms since the Unix epoch.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let record = &mut self.scratch;
        record.clear();
        record.push(0);
        put_varlong(record, timestamp.wrapping_sub(self.base_timestamp));
        put_varlong(record, i64::from(self.count));
        put_nullable(record, key);
        put_nullable(record, value);
        put_varlong(record, headers.len() as i64);
        for (name, value) in headers {
            put_nullable(record, Some(name));
            put_nullable(record, value.as_deref());
        }
        put_varlong(&mut self.records, self.scratch.len() as i64);
        self.records.extend_from_slice(&self.scratch);
        self.count += 1;
    }

    /// How many records it has.
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Bytes of the records before compression.
    pub fn records_len(&self) -> usize {
        self.records.len()
    }

    /// The batch.
    pub fn build(self) -> Result<Bytes, CompressionError> {
        let body = match self.compression {
            Compression::None => self.records,
            compression => compression::compress(compression, &self.records)?,
        };
        let mut batch = BytesMut::with_capacity(HEADER_LEN + body.len());
        batch.put_i64(0);
        batch.put_i32((HEADER_LEN - LENGTH_PREFIX + body.len()) as i32);
        batch.put_i32(-1);
        batch.put_i8(2);
        batch.put_u32(0);
        let type_bit = if self.log_append_time { TIMESTAMP_TYPE_BIT } else { 0 };
        batch.put_i16(self.compression as i16 | type_bit);
        batch.put_i32(self.count - 1);
        batch.put_i64(self.base_timestamp);
        batch.put_i64(self.max_timestamp);
        batch.put_i64(self.producer_id);
        batch.put_i16(self.producer_epoch);
        batch.put_i32(self.base_sequence);
        batch.put_i32(self.count);
        batch.put_slice(&body);
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        Ok(batch.freeze())
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varlong(out, -1),
    }
}
