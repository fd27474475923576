//! Which end of a connection we are.

/// One of [`Server`] and [`Client`].
pub trait Role: sealed::Sealed {
    #[doc(hidden)]
    const IS_CLIENT: bool;
}

/// The end that answers requests.
#[derive(Clone, Copy, Debug)]
pub struct Server;

/// The end that opens streams and asks.
#[derive(Clone, Copy, Debug)]
pub struct Client;

impl Role for Server {
    const IS_CLIENT: bool = false;
}

impl Role for Client {
    const IS_CLIENT: bool = true;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Server {}
    impl Sealed for super::Client {}
}
