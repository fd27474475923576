use std::sync::Arc;
use std::time::Duration;

use instant_acme::{CertificateIdentifier, Error};

use crate::account::Session;
use crate::archive::Archive;
use crate::call::steady;
use crate::failure::Failure;
use crate::leaf::Pair;
use crate::request::CertificateRequest;
use crate::schedule::Window;

/// When the authority suggests to renew a certificate, and after how long to ask again (RFC 9773). None where it offers
/// no such information, or where there is no account yet.
pub(crate) async fn ask_window(
    archive: Arc<Archive>,
    request: CertificateRequest,
    pair: Pair,
) -> Result<Option<(Window, Duration)>, Failure> {
    let Some(session) = Session::existing(&archive, &request).await? else { return Ok(None) };
    let Ok(id) = CertificateIdentifier::try_from(&pair.leaf) else { return Ok(None) };
    let asked = steady!(&session.transport, "the renewal information", async {
        match session.account.renewal_info(&id).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error),
        }
    })?;
    Ok(asked.map(|(info, again)| {
        let window = info.suggested_window;
        (Window { start: window.start.into(), end: window.end.into() }, again)
    }))
}
