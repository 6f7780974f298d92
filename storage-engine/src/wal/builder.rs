//! Putting a write-ahead object together, without copying the batches.

use super::footer_generated::kafscale::wal as fb;
use super::{Kind, Run, StreamId, WalHeader, HEADER_LEN, HEADER_MAGIC, TRAILER_LEN, TRAILER_MAGIC, VERSION};
use bytes::{BufMut, Bytes, BytesMut};
use flatbuffers::FlatBufferBuilder;
use kafscale_codec::{crc, record_batch};

/// A finished object.
#[derive(Debug)]
pub struct WalObject {
    /// Its bytes, in pieces.
    pub parts: Vec<Bytes>,
    /// Its runs, with positions and CRCs.
    pub runs: Vec<Run>,
    /// Bytes in all.
    pub len: u64,
    /// CRC-32C of all bytes.
    pub crc32c: u32,
}

/// Collects runs.
#[derive(Debug)]
pub struct WalBuilder {
    parts: Vec<Bytes>,
    crc32c: u32,
    runs: Vec<Run>,
    position: u64,
}

impl WalBuilder {
    /// An object with this header.
    pub fn new(header: &WalHeader) -> Self {
        let header = encode_header(header);
        WalBuilder {
            crc32c: crc32c::crc32c(&header),
            parts: vec![header],
            runs: Vec::new(),
            position: HEADER_LEN as u64,
        }
    }

    /// Adds a run of valid batches; its position, length and CRC are filled in here.
    pub fn push_run(&mut self, mut run: Run, batches: Vec<Bytes>) {
        run.position = self.position;
        run.length = batches.iter().map(|batch| batch.len() as u64).sum();
        run.crc32c = batches
            .iter()
            .fold(0, |crc, batch| record_batch::append_crc(crc, batch));
        let pieces = batches.iter().map(|batch| &batch[..]);
        self.crc32c = crc::append_known(self.crc32c, pieces, run.length as usize, run.crc32c);
        self.position += run.length;
        self.parts.extend(batches);
        self.runs.push(run);
    }

    /// The object.
    pub fn finish(mut self) -> WalObject {
        let footer = encode_footer(&self.runs);
        let mut trailer = BytesMut::with_capacity(TRAILER_LEN);
        trailer.put_u32(footer.len() as u32);
        trailer.put_u32(crc32c::crc32c(&footer));
        trailer.put_u32(crc32c::crc32c(&trailer));
        trailer.put_slice(TRAILER_MAGIC);
        let len = self.position + footer.len() as u64 + TRAILER_LEN as u64;
        let crc32c = crc32c::crc32c_append(crc32c::crc32c_append(self.crc32c, &footer), &trailer);
        self.parts.push(footer);
        self.parts.push(trailer.freeze());
        WalObject {
            parts: self.parts,
            runs: self.runs,
            len,
            crc32c,
        }
    }
}

/// The object that ends a stream before slot `seq`. Its writer has seen every slot before it taken.
pub fn fence_object(stream: StreamId, seq: u64, nonce: u128) -> Vec<Bytes> {
    let header = WalHeader {
        kind: Kind::Fence,
        stream,
        first_seq: seq,
        last_seq: seq,
        nonce,
        vouched: seq,
    };
    WalBuilder::new(&header).finish().parts
}

fn encode_header(header: &WalHeader) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_LEN);
    out.put_slice(HEADER_MAGIC);
    out.put_u16(VERSION);
    out.put_u8(header.kind as u8);
    out.put_u8(0);
    out.put_u64(header.stream.0);
    out.put_u64(header.first_seq);
    out.put_u64(header.last_seq);
    out.put_u128(header.nonce);
    out.put_u64(header.vouched);
    out.put_bytes(0, 4);
    out.put_u32(crc32c::crc32c(&out));
    out.freeze()
}

fn encode_footer(runs: &[Run]) -> Bytes {
    let mut fbb = FlatBufferBuilder::with_capacity(64 + runs.len() * 96);
    let offsets: Vec<_> = runs
        .iter()
        .map(|run| {
            let changes: Vec<fb::ProducerChange> = run
                .producers
                .iter()
                .map(|change| {
                    fb::ProducerChange::new(
                        change.producer_id,
                        change.base_offset,
                        change.last_offset,
                        change.timestamp,
                        change.base_sequence,
                        change.last_sequence,
                        change.producer_epoch,
                    )
                })
                .collect();
            let producers = (!changes.is_empty()).then(|| fbb.create_vector(&changes));
            let id = u128::from_be_bytes(run.topic_id.0);
            let topic_id = fb::TopicId::new((id >> 64) as u64, id as u64);
            fb::Run::create(
                &mut fbb,
                &fb::RunArgs {
                    topic_id: Some(&topic_id),
                    partition: run.partition,
                    leader_epoch: run.leader_epoch,
                    base_offset: run.base_offset,
                    next_offset: run.next_offset,
                    position: run.position,
                    length: run.length,
                    max_timestamp: run.max_timestamp,
                    crc32c: run.crc32c,
                    producers,
                },
            )
        })
        .collect();
    let runs = fbb.create_vector(&offsets);
    let footer = fb::Footer::create(&mut fbb, &fb::FooterArgs { runs: Some(runs) });
    fbb.finish(footer, None);
    Bytes::copy_from_slice(fbb.finished_data())
}
