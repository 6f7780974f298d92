//! Kafka's primitive types on the wire: big-endian integers, strings, arrays, compact forms and tagged fields (KIP-482).
//!
//! [`Reader`] hands out slices of the frame and checks every length against the bytes that remain before anything is
//! allocated. [`Writer`] gathers small fields and keeps record batches as buffers of their own.

use crate::types::TopicId;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Consecutive pieces of an encoded frame.
pub type BufferList = Vec<Bytes>;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends before the field does.
    #[error("{needed} bytes needed, {remaining} remain")]
    Truncated {
        /// What the field takes.
        needed: usize,
        /// What is left.
        remaining: usize,
    },
    /// A length or count is negative where null is not allowed.
    #[error("null where a value is required")]
    UnexpectedNull,
    /// A length or count that nothing can have.
    #[error("length {0} is impossible")]
    BadLength(i64),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A varint runs over its size.
    #[error("a varint is too long")]
    BadVarint,
    /// The message does not exist in this version.
    #[error("version {0} is not known")]
    UnsupportedVersion(i16),
}

/// Why a message could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message does not exist in this version.
    #[error("version {0} is not known")]
    UnsupportedVersion(i16),
    /// A field is set that this version has no place for, and that may not be left out silently.
    #[error("field {0} cannot be said in version {1}")]
    FieldNotInVersion(&'static str, i16),
    /// A field is null in a version that has no null for it.
    #[error("a field is null where version {0} has no null")]
    UnexpectedNull(i16),
    /// Longer than its length field can say.
    #[error("a value of {0} bytes is too long")]
    TooLong(usize),
}

/// Reads fields off the front of a frame.
#[derive(Debug, Clone)]
pub struct Reader {
    frame: Bytes,
}

impl Reader {
    /// Reads from the start of `frame`.
    pub fn new(frame: Bytes) -> Self {
        Reader { frame }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.frame.len()
    }

    /// The next `len` bytes, as a slice of the frame.
    pub fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        self.need(len)?;
        Ok(self.frame.split_to(len))
    }

    fn need(&self, needed: usize) -> Result<(), DecodeError> {
        let remaining = self.frame.len();
        if needed > remaining {
            return Err(DecodeError::Truncated { needed, remaining });
        }
        Ok(())
    }

    /// An unsigned varint of at most 32 bits.
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            self.need(1)?;
            let byte = self.frame.get_u8();
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::BadVarint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadVarint)
    }

    /// A length or a count, `None` for null. Each counted thing takes at least one byte, so a count beyond what remains
    /// is refused before anything is allocated for it.
    fn length(&mut self, flexible: bool, width: usize) -> Result<Option<usize>, DecodeError> {
        let length = if flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            self.need(width)?;
            if width == 2 {
                i64::from(self.frame.get_i16())
            } else {
                i64::from(self.frame.get_i32())
            }
        };
        match length {
            -1 => Ok(None),
            n if n < -1 => Err(DecodeError::BadLength(n)),
            n => {
                let needed = usize::try_from(n).map_err(|_| DecodeError::BadLength(n))?;
                self.need(needed)?;
                Ok(Some(needed))
            }
        }
    }

    /// Skips the tagged fields that nobody here knows.
    pub fn skip_tags(&mut self) -> Result<(), DecodeError> {
        self.tags(|_, _| Ok(()))
    }

    /// Calls `field` with each tag and its bytes.
    pub fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let len = self.unsigned_varint()? as usize;
            field(tag, &mut Reader::new(self.take(len)?))?;
        }
        Ok(())
    }
}

/// Collects an encoded frame.
#[derive(Debug, Default)]
pub struct Writer {
    done: BufferList,
    current: BytesMut,
}

impl Writer {
    /// An empty frame.
    pub fn new() -> Self {
        Writer {
            done: Vec::new(),
            current: BytesMut::with_capacity(256),
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.done.iter().map(Bytes::len).sum::<usize>() + self.current.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends bytes by copy.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.current.put_slice(bytes);
    }

    /// Appends a buffer as it is.
    pub fn put_buffer(&mut self, buffer: Bytes) {
        if buffer.len() < 512 {
            self.current.put_slice(&buffer);
        } else {
            if !self.current.is_empty() {
                self.done.push(self.current.split().freeze());
            }
            self.done.push(buffer);
        }
    }

    /// An unsigned varint.
    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.current.put_u8((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.current.put_u8(value as u8);
    }

    fn length(&mut self, length: Option<usize>, flexible: bool, width: usize) -> Result<(), EncodeError> {
        let limit = if flexible || width == 4 {
            i32::MAX as usize - 1
        } else {
            i16::MAX as usize
        };
        if let Some(length) = length.filter(|length| *length > limit) {
            return Err(EncodeError::TooLong(length));
        }
        match (flexible, width) {
            (true, _) => self.unsigned_varint(length.map_or(0, |length| length as u32 + 1)),
            (false, 2) => self.current.put_i16(length.map_or(-1, |length| length as i16)),
            (false, _) => self.current.put_i32(length.map_or(-1, |length| length as i32)),
        }
        Ok(())
    }

    /// One tagged field.
    pub fn tag(&mut self, tag: u32, field: Writer) {
        self.unsigned_varint(tag);
        self.unsigned_varint(field.len() as u32);
        for buffer in field.finish() {
            self.put_buffer(buffer);
        }
    }

    /// The pieces of the frame, in order.
    pub fn finish(mut self) -> BufferList {
        if !self.current.is_empty() {
            self.done.push(self.current.freeze());
        }
        self.done
    }
}

/// How a field is written: in which version of its message, and whether that version is flexible.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// The message's version.
    pub version: i16,
    /// Compact lengths and tagged fields.
    pub flexible: bool,
    /// Whether null may be said for this field.
    pub nullable: bool,
}

/// A type of a message's field.
pub trait Field: Sized {
    /// Appends the value.
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError>;
    /// Reads a value.
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError>;

    /// Whether it is, or holds anywhere, an error code other than `NONE`.
    fn has_error(&self) -> bool {
        false
    }
}

macro_rules! fixed {
    ($($ty:ty, $size:expr, $get:ident, $put:ident;)*) => {$(
        impl Field for $ty {
            fn write(&self, writer: &mut Writer, _: Form) -> Result<(), EncodeError> {
                writer.current.$put(*self);
                Ok(())
            }
            fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
                reader.need($size)?;
                Ok(reader.frame.$get())
            }
        }
    )*};
}

fixed! {
    i8, 1, get_i8, put_i8;
    i16, 2, get_i16, put_i16;
    u16, 2, get_u16, put_u16;
    i32, 4, get_i32, put_i32;
    i64, 8, get_i64, put_i64;
    f64, 8, get_f64, put_f64;
}

impl Field for bool {
    fn write(&self, writer: &mut Writer, _: Form) -> Result<(), EncodeError> {
        writer.current.put_u8(u8::from(*self));
        Ok(())
    }
    fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        reader.need(1)?;
        Ok(reader.frame.get_u8() != 0)
    }
}

impl Field for TopicId {
    fn write(&self, writer: &mut Writer, _: Form) -> Result<(), EncodeError> {
        writer.put_slice(&self.0);
        Ok(())
    }
    fn read(reader: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        let mut id = [0; 16];
        id.copy_from_slice(&reader.take(16)?);
        Ok(TopicId(id))
    }
}

impl Field for String {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        writer.length(Some(self.len()), form.flexible, 2)?;
        writer.put_slice(self.as_bytes());
        Ok(())
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        Option::<String>::read(reader, Form { nullable: true, ..form })?.ok_or(DecodeError::UnexpectedNull)
    }
}

impl Field for Option<String> {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        match self {
            Some(text) => text.write(writer, form),
            None if form.nullable => writer.length(None, form.flexible, 2),
            None => Err(EncodeError::UnexpectedNull(form.version)),
        }
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        match reader.length(form.flexible, 2)? {
            Some(len) => {
                let bytes = reader.take(len)?;
                let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::NotUtf8)?;
                Ok(Some(text.to_string()))
            }
            None if form.nullable => Ok(None),
            None => Err(DecodeError::UnexpectedNull),
        }
    }
}

impl Field for Bytes {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        writer.length(Some(self.len()), form.flexible, 4)?;
        writer.put_buffer(self.clone());
        Ok(())
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        Option::<Bytes>::read(reader, Form { nullable: true, ..form })?.ok_or(DecodeError::UnexpectedNull)
    }
}

impl Field for Option<Bytes> {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        match self {
            Some(bytes) => bytes.write(writer, form),
            None if form.nullable => writer.length(None, form.flexible, 4),
            None => Err(EncodeError::UnexpectedNull(form.version)),
        }
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        match reader.length(form.flexible, 4)? {
            Some(len) => Ok(Some(reader.take(len)?)),
            None if form.nullable => Ok(None),
            None => Err(DecodeError::UnexpectedNull),
        }
    }
}

/// Stored batches as one RECORDS field: a list of buffers that goes out without being copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records(pub Vec<Bytes>);

impl Records {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Field for Option<Records> {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        let Some(records) = self else {
            return Option::<Bytes>::None.write(writer, form);
        };
        writer.length(Some(records.len()), form.flexible, 4)?;
        for buffer in &records.0 {
            writer.put_buffer(buffer.clone());
        }
        Ok(())
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        Ok(Option::<Bytes>::read(reader, form)?.map(|bytes| Records(vec![bytes])))
    }
}

impl<T: Field> Field for Vec<T> {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        writer.length(Some(self.len()), form.flexible, 4)?;
        self.iter().try_for_each(|item| {
            item.write(
                writer,
                Form {
                    nullable: false,
                    ..form
                },
            )
        })
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        Option::<Vec<T>>::read(reader, Form { nullable: true, ..form })?.ok_or(DecodeError::UnexpectedNull)
    }
    fn has_error(&self) -> bool {
        self.iter().any(Field::has_error)
    }
}

impl<T: Field> Field for Option<Vec<T>> {
    fn write(&self, writer: &mut Writer, form: Form) -> Result<(), EncodeError> {
        match self {
            Some(items) => items.write(writer, form),
            None if form.nullable => writer.length(None, form.flexible, 4),
            None => Err(EncodeError::UnexpectedNull(form.version)),
        }
    }
    fn read(reader: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        match reader.length(form.flexible, 4)? {
            Some(count) => {
                // Grown as items arrive: a count that lies costs no more memory than the frame's own bytes justify.
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(T::read(
                        reader,
                        Form {
                            nullable: false,
                            ..form
                        },
                    )?);
                }
                Ok(Some(items))
            }
            None if form.nullable => Ok(None),
            None => Err(DecodeError::UnexpectedNull),
        }
    }
    fn has_error(&self) -> bool {
        self.as_ref().is_some_and(Field::has_error)
    }
}

/// A structure that may be null goes behind a byte: 1, or −1 for null.
pub(crate) fn write_nullable_struct<T: Field>(
    value: Option<&T>,
    writer: &mut Writer,
    form: Form,
) -> Result<(), EncodeError> {
    match value {
        Some(value) => {
            1i8.write(writer, form)?;
            value.write(writer, form)
        }
        None if form.nullable => (-1i8).write(writer, form),
        None => Err(EncodeError::UnexpectedNull(form.version)),
    }
}

/// As [`write_nullable_struct`]; any negative byte is null, as it is for Kafka.
pub(crate) fn read_nullable_struct<T: Field>(reader: &mut Reader, form: Form) -> Result<Option<T>, DecodeError> {
    match i8::read(reader, form)? {
        0.. => Ok(Some(T::read(reader, form)?)),
        _ if form.nullable => Ok(None),
        _ => Err(DecodeError::UnexpectedNull),
    }
}
