//! Message sets of magic 0 and 1 from old clients: what is converted is a batch that passes every check.

#![no_main]

use kafscale_codec::legacy::{convert_message_set, Limits};
use kafscale_codec::record_batch;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    decompressed_bytes_max: 1 << 20,
};

/// With lengths and CRCs that are right as far as the set goes, or else nothing gets past them.
fn repaired(input: &[u8]) -> Vec<u8> {
    let mut set = input.to_vec();
    let mut at = 0;
    while set.len() - at >= 26 {
        let left = set.len() - at - 12;
        let asked = u16::from_be_bytes([set[at + 10], set[at + 11]]) as usize;
        let len = asked.clamp(14.min(left), left);
        set[at + 8..at + 12].copy_from_slice(&(len as i32).to_be_bytes());
        set[at + 16] &= 1;
        let crc = crc32(&set[at + 16..at + 12 + len]);
        set[at + 12..at + 16].copy_from_slice(&crc.to_be_bytes());
        at += 12 + len;
    }
    set
}

/// CRC-32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

fn look(set: &[u8]) {
    if let Ok(batch) = convert_message_set(set, LIMITS) {
        record_batch::validate(&batch).expect("what is converted is a sound batch");
        assert!(!record_batch::records(&batch).expect("and can be read").is_empty());
    }
}

fuzz_target!(|input: &[u8]| {
    look(input);
    look(&repaired(input));
});
