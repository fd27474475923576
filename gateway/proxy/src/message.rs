//! The heads of requests and answers as the gateway works on them: one arena of text and a list of fields into it.
//!
//! Every step between a client's first byte and the backend's reads and edits these, whatever protocol they came in.
//! They are made to be used again for the next request, so that a request allocates nothing for its head.

mod fields;
mod known;
mod request;
mod response;

pub(crate) use fields::{Fields, Span};
pub(crate) use known::Known;
pub(crate) use request::{Protocol, RequestHead};
pub(crate) use response::ResponseHead;
