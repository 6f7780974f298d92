//! How a record becomes bytes: one version byte, then the fields in order, with nothing after them.
//!
//! Unsigned numbers are LEB128 varints, signed ones zigzag first; strings and lists carry their length; an option is a
//! byte 0 or 1. Every length is checked against the bytes that remain before anything is allocated.

use bytes::Bytes;
use kafscale_codec::types::TopicId;
use std::collections::BTreeMap;

/// Why stored bytes are not the record that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a version of this program that knows more.
    #[error("record version {0} is not known")]
    UnknownVersion(u8),
    /// The bytes end within the record.
    #[error("record is cut off")]
    Truncated,
    /// A field holds what it cannot hold.
    #[error("record field is invalid: {0}")]
    Invalid(&'static str),
    /// Bytes follow the record.
    #[error("{0} bytes follow the record")]
    TrailingBytes(usize),
}

/// A value inside a record.
pub(super) trait Field: Sized {
    fn put(&self, into: &mut Vec<u8>);
    fn take(from: &mut &[u8]) -> Result<Self, RecordError>;
}

/// Writes the version byte and lets `fields` write the rest.
pub(super) fn encode_versioned(version: u8, fields: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut into = vec![version];
    fields(&mut into);
    Bytes::from(into)
}

/// Checks the version byte, lets `fields` read the rest and checks that nothing is left.
pub(super) fn decode_versioned<T>(
    version: u8,
    mut bytes: &[u8],
    fields: impl FnOnce(&mut &[u8]) -> Result<T, RecordError>,
) -> Result<T, RecordError> {
    let found = take_byte(&mut bytes)?;
    if found != version {
        return Err(RecordError::UnknownVersion(found));
    }
    let record = fields(&mut bytes)?;
    if bytes.is_empty() {
        Ok(record)
    } else {
        Err(RecordError::TrailingBytes(bytes.len()))
    }
}

fn take_byte(from: &mut &[u8]) -> Result<u8, RecordError> {
    Ok(take_bytes(from, 1)?[0])
}

fn take_bytes<'a>(from: &mut &'a [u8], length: usize) -> Result<&'a [u8], RecordError> {
    let (taken, rest) = from.split_at_checked(length).ok_or(RecordError::Truncated)?;
    *from = rest;
    Ok(taken)
}

/// A length or count: every unit of it takes at least one of the bytes that remain.
fn take_length(from: &mut &[u8]) -> Result<usize, RecordError> {
    let length = usize::try_from(u64::take(from)?).map_err(|_| RecordError::Truncated)?;
    if length > from.len() {
        return Err(RecordError::Truncated);
    }
    Ok(length)
}

impl Field for u64 {
    fn put(&self, into: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            into.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        into.push(rest as u8);
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = take_byte(from)?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(RecordError::Invalid("number above 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError::Invalid("number above 64 bits"))
    }
}

impl Field for i64 {
    fn put(&self, into: &mut Vec<u8>) {
        (((self << 1) ^ (self >> 63)) as u64).put(into);
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        let zigzag = u64::take(from)?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }
}

/// Smaller numbers are stored as the large ones, so that widening a field changes no bytes.
macro_rules! narrow_field {
    ($($narrow:ty as $wide:ty),*) => {$(
        impl Field for $narrow {
            fn put(&self, into: &mut Vec<u8>) {
                <$wide>::from(*self).put(into);
            }

            fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
                let wide = <$wide>::take(from)?;
                wide.try_into().map_err(|_| RecordError::Invalid(concat!("number outside ", stringify!($narrow))))
            }
        }
    )*};
}

narrow_field!(u8 as u64, u16 as u64, u32 as u64, i32 as i64);

impl Field for TopicId {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.0);
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        let mut id = TopicId::ZERO;
        id.0.copy_from_slice(take_bytes(from, 16)?);
        Ok(id)
    }
}

impl Field for String {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        into.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        let length = take_length(from)?;
        let text = std::str::from_utf8(take_bytes(from, length)?);
        Ok(text.map_err(|_| RecordError::Invalid("text is not UTF-8"))?.to_string())
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, into: &mut Vec<u8>) {
        into.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.put(into);
        }
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        match take_byte(from)? {
            0 => Ok(None),
            1 => Ok(Some(T::take(from)?)),
            _ => Err(RecordError::Invalid("option is neither 0 nor 1")),
        }
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        self.iter().for_each(|item| item.put(into));
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        let count = take_length(from)?;
        (0..count).map(|_| T::take(from)).collect()
    }
}

impl<K: Field + Ord, V: Field> Field for BTreeMap<K, V> {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        for (key, value) in self {
            key.put(into);
            value.put(into);
        }
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        let count = take_length(from)?;
        let mut map = BTreeMap::new();
        for _ in 0..count {
            if map.insert(K::take(from)?, V::take(from)?).is_some() {
                return Err(RecordError::Invalid("map holds a key twice"));
            }
        }
        Ok(map)
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, into: &mut Vec<u8>) {
        self.0.put(into);
        self.1.put(into);
    }

    fn take(from: &mut &[u8]) -> Result<Self, RecordError> {
        Ok((A::take(from)?, B::take(from)?))
    }
}
