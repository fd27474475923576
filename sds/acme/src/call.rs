use std::time::Duration;

use instant_acme::Error;

use crate::failure::{Failure, is_bad_nonce};
use crate::transport::Transport;

/// instant-acme makes three attempts of its own at a call; with nine of ten nonces refused, as pebble does on demand,
/// a call then fails by chance once in ten million times.
const NONCE_TRIES: u32 = 50;
const NONCE_PAUSE: Duration = Duration::from_millis(5);
const NONCE_PAUSE_MAX: Duration = Duration::from_millis(200);

/// How often a call met a refused nonce (RFC 8555 section 6.5), which is the one failure that did nothing.
#[derive(Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// Returns after a pause when the call may be made again.
    ///
    /// # Errors
    /// Any other failure of the call.
    pub(crate) async fn again(
        &mut self,
        transport: &Transport,
        step: &'static str,
        error: Error,
    ) -> Result<(), Failure> {
        if !is_bad_nonce(&error) || self.0 == NONCE_TRIES {
            return Err(Failure::of_call(step, error, transport.retry_after()));
        }
        self.0 += 1;
        tokio::time::sleep((NONCE_PAUSE * self.0).min(NONCE_PAUSE_MAX)).await;
        Ok(())
    }
}

/// Makes a call, and repeats it while the authority refuses nonces. `step` is what the call is, for the user. A macro
/// because the compiler cannot show yet that the future of a function over an async closure is `Send`.
macro_rules! steady {
    ($transport:expr, $step:expr, $call:expr) => {{
        let mut tries = $crate::call::Tries::default();
        loop {
            match $call.await {
                Ok(value) => break Ok(value),
                Err(error) => {
                    if let Err(failure) = tries.again($transport, $step, error).await {
                        break Err(failure);
                    }
                }
            }
        }
    }};
}

pub(crate) use steady;
