//! Every message, declared once: fields with their versions. Encoding and decoding of all versions derive from that.
//!
//! Names, versions, defaults and tags are those of the schemas in Kafka's `clients/src/main/resources/common/message`.
#![allow(missing_docs)] // A field means what Kafka's schema of the same name says.

use crate::api::ApiKey;
use crate::wire::{BufferList, DecodeError, EncodeError, Field, Form, Reader, Writer};
use bytes::{BufMut, Bytes, BytesMut};

/// Declares a struct and derives its bytes: `field: Type, versions [, null versions] [, default value] [, strict true] [, tag n];`
///
/// `strict` marks a field that may not be left out silently where its version has no place for it.
macro_rules! message {
    ($(
        $(#[$meta:meta])*
        $name:ident {
            $($field:ident : $ty:ty, $versions:expr $(, null $null:expr)? $(, default $default:expr)? $(, strict $strict:literal)? $(, tag $tag:literal)?;)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: { let value: Option<$ty> = None$(.or(Some($default)))?; value.unwrap_or_default() },)* }
            }
        }

        impl crate::wire::Field for $name {
            #[allow(unused_mut, unused_variables)]
            fn write(&self, writer: &mut crate::wire::Writer, form: crate::wire::Form) -> Result<(), crate::wire::EncodeError> {
                let version = form.version;
                let defaults = $name::default();
                $({
                    let tag: Option<u32> = None$(.or(Some($tag)))?;
                    let nullable = false $(|| ($null).contains(&version))?;
                    if ($versions).contains(&version) {
                        if tag.is_none() {
                            self.$field.write(writer, crate::wire::Form { nullable, ..form })?;
                        }
                    } $(else if $strict && self.$field != defaults.$field {
                        return Err(crate::wire::EncodeError::FieldNotInVersion(stringify!($field), version));
                    })?
                })*
                if form.flexible {
                    let mut tags: Vec<(u32, crate::wire::Writer)> = Vec::new();
                    $($(
                        if ($versions).contains(&version) && self.$field != defaults.$field {
                            let mut field = crate::wire::Writer::new();
                            self.$field.write(&mut field, crate::wire::Form { nullable: true, ..form })?;
                            tags.push(($tag, field));
                        }
                    )?)*
                    writer.unsigned_varint(tags.len() as u32);
                    for (tag, field) in tags {
                        writer.tag(tag, field);
                    }
                }
                Ok(())
            }

            #[allow(unused_mut, unused_variables)]
            fn read(reader: &mut crate::wire::Reader, form: crate::wire::Form) -> Result<Self, crate::wire::DecodeError> {
                let version = form.version;
                let mut message = $name::default();
                $({
                    let tag: Option<u32> = None$(.or(Some($tag)))?;
                    if tag.is_none() && ($versions).contains(&version) {
                        let nullable = false $(|| ($null).contains(&version))?;
                        message.$field = crate::wire::Field::read(reader, crate::wire::Form { nullable, ..form })?;
                    }
                })*
                if form.flexible {
                    reader.tags(|found, field| {
                        $($(
                            if found == $tag && ($versions).contains(&version) {
                                message.$field = crate::wire::Field::read(field, crate::wire::Form { nullable: true, ..form })?;
                            }
                        )?)*
                        Ok(())
                    })?;
                }
                Ok(message)
            }

            fn has_error(&self) -> bool {
                false $(|| crate::wire::Field::has_error(&self.$field))*
            }
        }

        impl crate::wire::Field for Option<$name> {
            fn write(&self, writer: &mut crate::wire::Writer, form: crate::wire::Form) -> Result<(), crate::wire::EncodeError> {
                crate::wire::write_nullable_struct(self.as_ref(), writer, form)
            }

            fn read(reader: &mut crate::wire::Reader, form: crate::wire::Form) -> Result<Self, crate::wire::DecodeError> {
                crate::wire::read_nullable_struct(reader, form)
            }

            fn has_error(&self) -> bool {
                self.as_ref().is_some_and(crate::wire::Field::has_error)
            }
        }

        #[cfg(feature = "testing")]
        impl crate::testing::Sample for $name {
            fn sample(sampler: &mut crate::testing::Sampler, form: crate::wire::Form) -> Self {
                let version = form.version;
                let mut message = $name::default();
                $(if ($versions).contains(&version) {
                    let tag: Option<u32> = None$(.or(Some($tag)))?;
                    let nullable = tag.is_some() $(|| ($null).contains(&version))?;
                    sampler.field = stringify!($field);
                    message.$field = crate::testing::Sample::sample(sampler, crate::wire::Form { nullable, ..form });
                })*
                message
            }
        }

        #[cfg(feature = "testing")]
        impl crate::testing::Sample for Option<$name> {
            fn sample(sampler: &mut crate::testing::Sampler, form: crate::wire::Form) -> Self {
                crate::testing::sample_nullable_struct(sampler, form)
            }
        }
    )*};
}

/// Says which API a request and its response belong to, and in which versions they exist.
macro_rules! api {
    ($($key:ident $versions:expr => $request:ident, $response:ident;)*) => {$(
        impl crate::messages::Message for $request {
            const API: crate::api::ApiKey = crate::api::ApiKey::$key;
            const VERSIONS: std::ops::RangeInclusive<i16> = $versions;
        }
        impl crate::messages::Message for $response {
            const API: crate::api::ApiKey = crate::api::ApiKey::$key;
            const VERSIONS: std::ops::RangeInclusive<i16> = $versions;
        }
        impl crate::messages::Request for $request {
            type Response = $response;
        }
    )*};
}

mod cluster;
mod configs;
mod consumer_groups;
mod fetch;
mod groups;
mod inspection;
mod list_offsets;
mod offsets;
mod produce;
mod topics;

pub use cluster::*;
pub use configs::*;
pub use consumer_groups::*;
pub use fetch::*;
pub use groups::*;
pub use inspection::*;
pub use list_offsets::*;
pub use offsets::*;
pub use produce::*;
pub use topics::*;

/// A request or a response.
pub trait Message: Field + Default {
    /// Its API.
    const API: ApiKey;
    /// The versions that are declared.
    const VERSIONS: std::ops::RangeInclusive<i16>;

    /// Appends the body in this version.
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if !Self::VERSIONS.contains(&version) {
            return Err(EncodeError::UnsupportedVersion(version));
        }
        self.write(writer, form(Self::API, version))
    }

    /// Reads a body of this version.
    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        if !Self::VERSIONS.contains(&version) {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        Self::read(reader, form(Self::API, version))
    }
}

/// A request knows its response.
pub trait Request: Message {
    /// What answers it.
    type Response: Message;
}

fn form(api: ApiKey, version: i16) -> Form {
    Form {
        version,
        flexible: version >= api.flexible_from(),
        nullable: false,
    }
}

/// The start of every request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHeader {
    /// Which API.
    pub api_key: i16,
    /// Which version of it.
    pub api_version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// Whatever the client calls itself.
    pub client_id: Option<String>,
}

/// Reads a request's header and leaves `reader` at the body. Of an unknown API or version only what all headers share is
/// read: then the body is of no use.
pub fn decode_request_header(reader: &mut Reader) -> Result<RequestHeader, DecodeError> {
    let fixed = Form {
        version: 1,
        flexible: false,
        nullable: true,
    };
    let mut header = RequestHeader {
        api_key: i16::read(reader, fixed)?,
        api_version: i16::read(reader, fixed)?,
        correlation_id: i32::read(reader, fixed)?,
        client_id: None,
    };
    let Some(key) = ApiKey::from_key(header.api_key) else {
        return Ok(header);
    };
    let known = crate::api::served(key).is_some_and(|api| (api.min..=api.max).contains(&header.api_version));
    if known {
        header.client_id = Field::read(reader, fixed)?;
        if key.request_header_version(header.api_version) >= 2 {
            reader.skip_tags()?;
        }
    }
    Ok(header)
}

/// A response as it goes out, size included.
pub fn encode_response<M: Message>(version: i16, correlation_id: i32, message: &M) -> Result<BufferList, EncodeError> {
    let mut writer = Writer::new();
    writer.put_slice(&correlation_id.to_be_bytes());
    if M::API.response_header_version(version) >= 1 {
        writer.unsigned_varint(0);
    }
    message.encode(&mut writer, version)?;
    sized(writer)
}

/// A request as it goes out, size included.
pub fn encode_request<M: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    message: &M,
) -> Result<BufferList, EncodeError> {
    let fixed = Form {
        version: 1,
        flexible: false,
        nullable: true,
    };
    let mut writer = Writer::new();
    (M::API as i16).write(&mut writer, fixed)?;
    version.write(&mut writer, fixed)?;
    correlation_id.write(&mut writer, fixed)?;
    client_id.map(str::to_string).write(&mut writer, fixed)?;
    if M::API.request_header_version(version) >= 2 {
        writer.unsigned_varint(0);
    }
    message.encode(&mut writer, version)?;
    sized(writer)
}

/// Reads a response frame (without its size): correlation id and body.
pub fn decode_response<M: Message>(frame: Bytes, version: i16) -> Result<(i32, M), DecodeError> {
    let mut reader = Reader::new(frame);
    let correlation_id = i32::read(
        &mut reader,
        Form {
            version: 0,
            flexible: false,
            nullable: false,
        },
    )?;
    if M::API.response_header_version(version) >= 1 {
        reader.skip_tags()?;
    }
    Ok((correlation_id, M::decode(&mut reader, version)?))
}

/// Puts the size in front.
fn sized(writer: Writer) -> Result<BufferList, EncodeError> {
    let len = writer.len();
    let size = i32::try_from(len).map_err(|_| EncodeError::TooLong(len))?;
    let mut buffers = writer.finish();
    let first = if buffers.is_empty() {
        Bytes::new()
    } else {
        buffers.remove(0)
    };
    let mut head = BytesMut::with_capacity(4 + first.len());
    head.put_i32(size);
    head.put_slice(&first);
    buffers.insert(0, head.freeze());
    Ok(buffers)
}

#[cfg(test)]
mod tests;
