//! What can go wrong: with the connection as a whole, with one request, or with what the application asked for.

use std::fmt;

use crate::hpack::HpackError;

/// The reason in RST_STREAM and GOAWAY frames (RFC 9113 section 7). Codes that no RFC knows are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

macro_rules! error_codes {
    ($($name:ident = $value:literal,)*) => {
        impl ErrorCode {
            $(pub const $name: Self = Self($value);)*

            /// The name that the RFC gives; none for codes that it does not know.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

error_codes! {
    NO_ERROR = 0x0,
    PROTOCOL_ERROR = 0x1,
    INTERNAL_ERROR = 0x2,
    FLOW_CONTROL_ERROR = 0x3,
    SETTINGS_TIMEOUT = 0x4,
    STREAM_CLOSED = 0x5,
    FRAME_SIZE_ERROR = 0x6,
    REFUSED_STREAM = 0x7,
    CANCEL = 0x8,
    COMPRESSION_ERROR = 0x9,
    CONNECT_ERROR = 0xa,
    ENHANCE_YOUR_CALM = 0xb,
    INADEQUATE_SECURITY = 0xc,
    HTTP_1_1_REQUIRED = 0xd,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a connection ends. A GOAWAY with [`ConnectionError::code`] is in the output already when this is returned: the
/// caller writes what is there, within a deadline, and closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the peer does not speak HTTP/2: its first bytes are not the connection preface")]
    Preface,
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("a frame has a length that its type forbids: {0}")]
    FrameSize(&'static str),
    #[error("the peer broke flow control: {0}")]
    FlowControl(&'static str),
    #[error("a frame came for a stream that both sides had ended")]
    StreamClosed,
    #[error("a header block cannot be decoded: {0}")]
    Compression(#[from] HpackError),
    #[error("the peer sends too much of what costs it nothing: {0}")]
    Flood(Flood),
}

impl ConnectionError {
    /// What the peer is told in GOAWAY.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Preface | Self::Protocol(_) => ErrorCode::PROTOCOL_ERROR,
            Self::FrameSize(_) => ErrorCode::FRAME_SIZE_ERROR,
            Self::FlowControl(_) => ErrorCode::FLOW_CONTROL_ERROR,
            Self::StreamClosed => ErrorCode::STREAM_CLOSED,
            Self::Compression(_) => ErrorCode::COMPRESSION_ERROR,
            Self::Flood(_) => ErrorCode::ENHANCE_YOUR_CALM,
        }
    }
}

/// Which bound of [`Limits`](crate::Limits) a peer went over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flood {
    /// Streams reset before they had an answer, by the peer or because the peer provoked it: "rapid reset"
    /// (CVE-2023-44487) and "MadeYouReset" (CVE-2025-8671).
    Resets,
    /// Frames of one header block (CVE-2024-27316 and its kin).
    Continuation,
    /// Bytes of one header block, encoded or decoded.
    HeaderBlock,
    /// Frames without payload that end nothing (CVE-2019-9518).
    EmptyFrames,
    /// PRIORITY and PRIORITY_UPDATE frames.
    Priority,
    /// WINDOW_UPDATE frames.
    WindowUpdate,
    /// Frames of types that nobody knows.
    UnknownFrames,
    /// Replies that the peer provokes and does not read: acknowledgements of PING and SETTINGS, RST_STREAM.
    ControlReplies,
}

impl Flood {
    /// A word for a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Continuation => "continuation",
            Self::HeaderBlock => "header_block",
            Self::EmptyFrames => "empty_frames",
            Self::Priority => "priority",
            Self::WindowUpdate => "window_update",
            Self::UnknownFrames => "unknown_frames",
            Self::ControlReplies => "control_replies",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a message is malformed (RFC 9113 section 8.1.1), or what else is wrong with its stream. The connection and its other streams are fine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Malformed {
    #[error("a field name has bytes that are no lower-case token")]
    FieldName,
    #[error("a field value has control characters, or blanks around it")]
    FieldValue,
    #[error("a pseudo-header field that requests do not have")]
    UnknownPseudo,
    #[error("a pseudo-header field is there twice")]
    DuplicatePseudo,
    #[error("a pseudo-header field comes after other fields")]
    LatePseudo,
    #[error("a pseudo-header field in trailers")]
    PseudoInTrailers,
    #[error(":method, :scheme or :path is missing, or there where CONNECT has none")]
    MissingPseudo,
    #[error(":method is no token")]
    Method,
    #[error(":scheme is no scheme")]
    Scheme,
    #[error(":path is empty, or has blanks or control characters, or does not begin with a slash")]
    Path,
    #[error(":authority is empty or has bytes that no authority has")]
    Authority,
    #[error("host is there twice, or names another authority than :authority")]
    Host,
    #[error("a field that belongs to a connection of HTTP/1")]
    ConnectionField,
    #[error("te says more than trailers")]
    Te,
    #[error("content-length is no number, or is there twice")]
    ContentLength,
    #[error("the body is not as long as content-length says")]
    BodyLength,
    #[error("trailers that do not end the stream")]
    TrailersWithoutEnd,
    #[error("a stream depends on itself")]
    SelfDependency,
    #[error("a window update of nothing")]
    ZeroWindowUpdate,
    #[error("the stream's window is larger than 2^31-1")]
    WindowOverflow,
    #[error("more data than the stream's window allows")]
    WindowExceeded,
    #[error("a frame for a half of the stream that the peer had ended")]
    AfterEnd,
    #[error(":status is not three digits, or says what cannot be said here")]
    Status,
    #[error("a response's fields are more or larger than allowed")]
    HeadTooLarge,
    #[error("a body before its head")]
    BodyBeforeHead,
    #[error("trailers are more or larger than allowed")]
    TrailersTooLarge,
    #[error("a PRIORITY frame that is not 5 bytes long")]
    PriorityLength,
    #[error("more streams than allowed")]
    TooManyStreams,
}

impl Malformed {
    /// What the peer is told in RST_STREAM.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::WindowOverflow | Self::WindowExceeded => ErrorCode::FLOW_CONTROL_ERROR,
            Self::AfterEnd => ErrorCode::STREAM_CLOSED,
            Self::PriorityLength => ErrorCode::FRAME_SIZE_ERROR,
            Self::TooManyStreams => ErrorCode::REFUSED_STREAM,
            _ => ErrorCode::PROTOCOL_ERROR,
        }
    }
}

/// Why no stream was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the connection opens no more streams")]
    Leaving,
    #[error("as many streams are open as the server allows")]
    TooMany,
    #[error("method, scheme, authority or path have bytes that cannot be sent")]
    Line,
}

/// Why something could not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The stream ended or was reset: there is nobody to send to. Nothing is wrong with the application, it learns of
    /// it by an event as well.
    #[error("the stream is closed")]
    Closed,
    /// The application broke the order of a message: body before head, head twice, anything after the end.
    #[error("not at this point of the message: {0}")]
    Order(&'static str),
}
