//! CRC-32C of bytes that follow each other, from the CRCs of each: without another look at the bytes.

/// The polynomial of CRC-32C, x^31 first (RFC 3720, appendix B.4, with its bits reversed).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^0: bits are reversed throughout.
const ONE: u32 = 1 << 31;

/// x^(8 · 2^k), by k.
const BYTE_POWERS: [u32; usize::BITS as usize] = byte_powers();

/// Bytes from which on [`combine`] is faster than looking at the bytes again.
const COMBINE_BYTES_MIN: usize = 16 * 1024;

/// Continues a CRC-32C over pieces of `len` bytes in all whose own CRC-32C is known.
pub fn append_known<'a>(crc: u32, pieces: impl IntoIterator<Item = &'a [u8]>, len: usize, pieces_crc: u32) -> u32 {
    match len < COMBINE_BYTES_MIN {
        true => pieces.into_iter().fold(crc, crc32c::crc32c_append),
        false => combine(crc, pieces_crc, len),
    }
}

/// The CRC-32C of two pieces of which the second has `len` bytes.
fn combine(first: u32, second: u32, len: usize) -> u32 {
    let mut shifted = first;
    for (k, power) in BYTE_POWERS.iter().enumerate() {
        if len >> k & 1 == 1 {
            shifted = multiply(*power, shifted);
        }
    }
    shifted ^ second
}

/// The product of two polynomials, modulo that of the CRC.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        bit >>= 1;
        b = b >> 1 ^ if b & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    product
}

const fn byte_powers() -> [u32; usize::BITS as usize] {
    let mut powers = [0; usize::BITS as usize];
    // x^8.
    let mut power = ONE >> 8;
    let mut k = 0;
    while k < powers.len() {
        powers[k] = power;
        power = multiply(power, power);
        k += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_of_two_pieces_is_that_of_both_together() {
        let bytes: Vec<u8> = (0..70_000u32).map(|at| (at.wrapping_mul(at) >> 3) as u8).collect();
        for whole in [0, 1, 2, 255, 16_384, 65_536, 70_000] {
            for split in [0, 1, 7, 256, 12_345, 65_535] {
                let (first, second) = bytes[..whole].split_at(split.min(whole));
                let crcs = (crc32c::crc32c(first), crc32c::crc32c(second));
                let both = crc32c::crc32c(&bytes[..whole]);
                assert_eq!(combine(crcs.0, crcs.1, second.len()), both, "{split} of {whole}");
                assert_eq!(
                    append_known(crcs.0, [second], second.len(), crcs.1),
                    both,
                    "{split} of {whole}"
                );
            }
        }
    }
}
