//! Messages to bytes and back, as prost does it, but with the blame where it belongs.
//!
//! tonic's own codec answers INTERNAL when a request cannot be decoded. That is the caller's fault,
//! so ours answers INVALID_ARGUMENT; the layers add what every error carries.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

use crate::error::Error;

/// The codec of every service of this crate.
#[derive(Debug)]
pub struct Codec<Out, In>(PhantomData<(Out, In)>);

impl<Out, In> Default for Codec<Out, In> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Out, In> tonic::codec::Codec for Codec<Out, In>
where
    Out: Message + Send + 'static,
    In: Message + Default + Send + 'static,
{
    type Encode = Out;
    type Decode = In;
    type Encoder = ProstEncoder<Out>;
    type Decoder = ProstDecoder<In>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder(PhantomData)
    }
}

/// Decodes one message.
#[derive(Debug)]
pub struct ProstDecoder<In>(PhantomData<In>);

impl<In: Message + Default> Decoder for ProstDecoder<In> {
    type Item = In;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<In>, Status> {
        match In::decode(buf) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(Error::undecodable(&error.to_string()).into()),
        }
    }
}
