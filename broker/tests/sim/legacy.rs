//! Message sets as clients from before Kafka 0.11 send them.

/// CRC-32 as such messages carry it (IEEE, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => (crc >> 1) ^ 0xedb8_8320,
            _ => crc >> 1,
        })
    };
    !bytes.iter().fold(!0, step)
}

/// A set of one message without a key. Magic 0 has no timestamp.
pub fn message_set(magic: i8, timestamp_ms: i64, value: &[u8]) -> Vec<u8> {
    let mut body = vec![magic as u8, 0];
    if magic > 0 {
        body.extend(timestamp_ms.to_be_bytes());
    }
    body.extend((-1i32).to_be_bytes());
    body.extend((value.len() as i32).to_be_bytes());
    body.extend(value);
    let len = body.len() as i32 + 4;
    [
        &0i64.to_be_bytes()[..],
        &len.to_be_bytes(),
        &crc32(&body).to_be_bytes(),
        &body,
    ]
    .concat()
}
