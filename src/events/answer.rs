//! The answers of `WatchEvents`, made of events that are encoded once for all who are told of them.
//!
//! Stands in for the type that the build would make of the message: a hundred watchers of one event would
//! otherwise cost as many copies of it, and as many encodings.

use std::{ops::Deref, sync::Arc};

use bytes::{Buf, BufMut};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};

use crate::pb;

/// An event that several may be told of.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedEvent(Arc<Encoded>);

#[derive(Debug, PartialEq)]
struct Encoded {
    event: pb::Event,
    bytes: Vec<u8>,
}

impl SharedEvent {
    /// How many bytes it has on the wire.
    pub fn size(&self) -> usize {
        self.0.bytes.len()
    }
}

impl From<pb::Event> for SharedEvent {
    fn from(event: pb::Event) -> Self {
        let bytes = event.encode_to_vec();
        Self(Arc::new(Encoded { event, bytes }))
    }
}

impl Deref for SharedEvent {
    type Target = pb::Event;

    fn deref(&self) -> &pb::Event {
        &self.0.event
    }
}

/// The message of this name in `event_service.proto`, which describes its fields.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "described in the proto")]
pub struct WatchEventsResponse {
    pub events: Vec<SharedEvent>,
    pub cursor: String,
    pub checkpoint: bool,
}

const EVENTS: u32 = 1;
const CURSOR: u32 = 2;
const CHECKPOINT: u32 = 3;

impl Message for WatchEventsResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        let Self { events, cursor, checkpoint } = self;
        for event in events {
            encoding::encode_key(EVENTS, WireType::LengthDelimited, buf);
            encoding::encode_varint(event.size() as u64, buf);
            buf.put_slice(&event.0.bytes);
        }
        if !cursor.is_empty() {
            encoding::string::encode(CURSOR, cursor, buf);
        }
        if *checkpoint {
            encoding::bool::encode(CHECKPOINT, checkpoint, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            EVENTS => {
                let mut event = pb::Event::default();
                encoding::message::merge(wire_type, &mut event, buf, ctx)?;
                self.events.push(event.into());
                Ok(())
            }
            CURSOR => encoding::string::merge(wire_type, &mut self.cursor, buf, ctx),
            CHECKPOINT => encoding::bool::merge(wire_type, &mut self.checkpoint, buf, ctx),
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let Self { events, cursor, checkpoint } = self;
        let of_event = |event: &SharedEvent| {
            let size = event.size();
            encoding::key_len(EVENTS) + encoding::encoded_len_varint(size as u64) + size
        };
        let of_cursor =
            if cursor.is_empty() { 0 } else { encoding::string::encoded_len(CURSOR, cursor) };
        let of_checkpoint =
            if *checkpoint { encoding::bool::encoded_len(CHECKPOINT, checkpoint) } else { 0 };
        events.iter().map(of_event).sum::<usize>() + of_cursor + of_checkpoint
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DynamicMessage, SerializeOptions};

    use super::*;
    use crate::rpc::permit::POOL;

    #[test]
    fn it_is_on_the_wire_what_the_proto_says() {
        let event = |id: &str| pb::Event { event_id: id.to_owned(), ..Default::default() };
        let answer = WatchEventsResponse {
            events: vec![event("one").into(), event("two").into()],
            cursor: "here".to_owned(),
            checkpoint: true,
        };

        let bytes = answer.encode_to_vec();

        assert_eq!(bytes.len(), answer.encoded_len());
        assert_eq!(WatchEventsResponse::decode(&*bytes).unwrap(), answer);
        let descriptor = POOL.get_message_by_name("tenantry.v1.WatchEventsResponse").unwrap();
        let told = DynamicMessage::decode(descriptor, &*bytes).unwrap();
        let options = SerializeOptions::new().use_proto_field_name(true);
        assert_eq!(
            told.serialize_with_options(serde_json::value::Serializer, &options).unwrap(),
            serde_json::json!({
                "events": [{"event_id": "one"}, {"event_id": "two"}],
                "cursor": "here",
                "checkpoint": true,
            })
        );
        assert_eq!(WatchEventsResponse::default().encode_to_vec(), [0; 0]);
    }
}
