//! Batches for Produce: sound ones, and ones with something wrong under a right CRC.

use bytes::Bytes;
use kafscale_codec::compression::Compression;
use kafscale_codec::record_batch::BatchBuilder;

/// The time that batches here begin with: both brokers see the same.
pub const TIME: i64 = 1_700_000_000_000;

/// A batch of that many records, a millisecond apart from [`TIME`] on.
pub fn plain(count: i64) -> Bytes {
    timed(&(0..count).map(|at| TIME + at).collect::<Vec<_>>())
}

/// A batch whose records have these times.
pub fn timed(times: &[i64]) -> Bytes {
    compressed(times, Compression::None)
}

/// As above, compressed.
pub fn compressed(times: &[i64], compression: Compression) -> Bytes {
    let mut batch = BatchBuilder::new().compression(compression);
    for (at, time) in times.iter().enumerate() {
        batch.push(*time, Some(b"key"), Some(format!("value {at}").as_bytes()), &[]);
    }
    batch.build().expect("a small batch")
}

/// A batch of an idempotent producer.
pub fn idempotent(producer_id: i64, epoch: i16, sequence: i32, count: i64) -> Bytes {
    let mut batch = BatchBuilder::new().producer(producer_id, epoch, sequence);
    (0..count).for_each(|at| batch.push(TIME + at, None, Some(b"value"), &[]));
    batch.build().expect("a small batch")
}

/// The batch with some bytes replaced, under a right CRC.
pub fn with(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// A name for each, for reports. None of them depends on the clock.
pub fn all() -> Vec<(&'static str, Bytes)> {
    let three = plain(3);
    let mut bad_crc = three.to_vec();
    bad_crc[17] ^= 1;
    vec![
        ("three records", three.clone()),
        ("one record", plain(1)),
        ("times out of order", timed(&[TIME + 5, TIME, TIME + 9, TIME + 1])),
        ("equal times", timed(&[TIME, TIME])),
        ("negative time", timed(&[-1])),
        ("time zero", timed(&[0, 1])),
        ("gzip", compressed(&[TIME, TIME + 1], Compression::Gzip)),
        ("snappy", compressed(&[TIME, TIME + 1], Compression::Snappy)),
        ("lz4", compressed(&[TIME, TIME + 1], Compression::Lz4)),
        ("zstd", compressed(&[TIME, TIME + 1], Compression::Zstd)),
        ("bad CRC", bad_crc.into()),
        ("no bytes", Bytes::new()),
        ("ten bytes", three.slice(..10)),
        ("cut in its header", three.slice(..40)),
        ("cut in its records", three.slice(..three.len() - 1)),
        ("two batches", [three.clone(), plain(1)].concat().into()),
        ("base offset 7", with(&three, 0, &7i64.to_be_bytes())),
        ("base offset −1", with(&three, 0, &(-1i64).to_be_bytes())),
        ("leader epoch 9", with(&three, 12, &9i32.to_be_bytes())),
        ("magic 0", with(&three, 16, &[0])),
        ("magic 1", with(&three, 16, &[1])),
        ("magic 3", with(&three, 16, &[3])),
        ("compression 7", with(&three, 21, &7i16.to_be_bytes())),
        ("log append time", with(&three, 21, &8i16.to_be_bytes())),
        ("transactional", with(&three, 21, &16i16.to_be_bytes())),
        ("control", with(&three, 21, &32i16.to_be_bytes())),
        ("delete horizon", with(&three, 21, &64i16.to_be_bytes())),
        ("unknown attribute", with(&three, 21, &128i16.to_be_bytes())),
        ("last offset delta 1", with(&three, 23, &1i32.to_be_bytes())),
        ("last offset delta −1", with(&three, 23, &(-1i32).to_be_bytes())),
        ("max timestamp −1", with(&three, 35, &(-1i64).to_be_bytes())),
        ("max timestamp too low", with(&three, 35, &TIME.to_be_bytes())),
        ("max timestamp too high", with(&three, 35, &(TIME + 99).to_be_bytes())),
        (
            "base sequence without a producer",
            with(&three, 53, &5i32.to_be_bytes()),
        ),
        (
            "producer epoch without a producer",
            with(&three, 51, &1i16.to_be_bytes()),
        ),
        ("count 0", with(&three, 57, &0i32.to_be_bytes())),
        ("count 2", with(&three, 57, &2i32.to_be_bytes())),
        ("count 4", with(&three, 57, &4i32.to_be_bytes())),
        ("count −1", with(&three, 57, &(-1i32).to_be_bytes())),
        ("record length 0", with(&three, 61, &[0])),
        ("record length too long", with(&three, 61, &[0x7e])),
        ("record attributes", with(&three, 62, &[1])),
        ("offset delta 5", with(&three, 64, &[10])),
        ("key length too long", with(&three, 65, &[0x7e])),
        ("key length −2", with(&three, 65, &[3])),
    ]
}
