use std::sync::Arc;

use instant_acme::{Account, Error, Key};
use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::archive::Archive;
use crate::call::steady;
use crate::failure::Failure;
use crate::request::CertificateRequest;
use crate::state::Shelf;
use crate::transport::Transport;

/// An account as it is kept; its key follows as PEM.
#[derive(Clone, Serialize, Deserialize)]
struct AccountHead {
    directory: String,
    email: Option<String>,
    /// The account's address at the authority; none before it is registered.
    url: Option<String>,
    /// Whether the authority knows the e-mail address.
    contact_told: bool,
}

/// The account of one directory and e-mail address, and the connection to the directory.
pub(crate) struct Session {
    pub(crate) account: Account,
    pub(crate) transport: Transport,
}

/// What tells accounts apart.
pub(crate) fn account_id(request: &CertificateRequest) -> String {
    format!("{} {}", request.directory, request.email.as_deref().unwrap_or_default())
}

impl Session {
    /// Takes up the account, or registers one. Its key is on the disk before the authority hears of it, and the
    /// registration of a known key gives the account that it has (RFC 8555 section 7.3.1): however often this is
    /// interrupted, there is one account.
    pub(crate) async fn open(archive: &Arc<Archive>, request: &CertificateRequest) -> Result<Self, Failure> {
        let id = account_id(request);
        let (mut head, pem, key) = match kept(archive, &id).await? {
            Some(kept) => kept,
            None => create(archive, &id, request).await?,
        };
        let transport = transport(request).await?;
        let account = match &head.url {
            Some(url) => restore(&transport, url, &key, request).await?,
            None => {
                let account = register(&transport, &key, request).await?;
                head.url = Some(account.id().to_owned());
                archive.write(Shelf::Accounts, &id, head.clone(), pem.clone()).await?;
                account
            }
        };
        if let Some(email) = &request.email
            && !head.contact_told
        {
            let contact = format!("mailto:{email}");
            steady!(&transport, "the account's e-mail address", account.update_contacts(&[contact.as_str()]))?;
            head.contact_told = true;
            archive.write(Shelf::Accounts, &id, head, pem).await?;
        }
        Ok(Self { account, transport })
    }

    /// The account if it is registered; nothing is created.
    pub(crate) async fn existing(
        archive: &Arc<Archive>,
        request: &CertificateRequest,
    ) -> Result<Option<Self>, Failure> {
        let Some((AccountHead { url: Some(url), .. }, _, key)) = kept(archive, &account_id(request)).await? else {
            return Ok(None);
        };
        let transport = transport(request).await?;
        let account = restore(&transport, &url, &key, request).await?;
        Ok(Some(Self { account, transport }))
    }

    /// The authority does not know the account any more: the key stays, and is registered again.
    pub(crate) async fn forget(archive: &Arc<Archive>, request: &CertificateRequest) -> Result<(), Failure> {
        let id = account_id(request);
        match kept(archive, &id).await? {
            Some((head, pem, _)) => {
                let head = AccountHead { url: None, contact_told: false, ..head };
                archive.write(Shelf::Accounts, &id, head, pem).await
            }
            None => Ok(()),
        }
    }
}

type Kept = (AccountHead, Zeroizing<String>, PrivatePkcs8KeyDer<'static>);

async fn kept(archive: &Arc<Archive>, id: &str) -> Result<Option<Kept>, Failure> {
    let Some(record) = archive.read::<AccountHead>(Shelf::Accounts, id).await? else { return Ok(None) };
    let key = PrivatePkcs8KeyDer::from_pem_slice(record.pem.as_bytes());
    match key.map_err(|error| error.to_string()).and_then(|key| match Key::from_pkcs8_der(key.clone_key()) {
        Ok(_) => Ok(key),
        Err(error) => Err(error.to_string()),
    }) {
        Ok(key) => Ok(Some((record.head, record.pem, key))),
        Err(reason) => {
            archive.set_aside(Shelf::Accounts, id, format!("its key: {reason}")).await?;
            Ok(None)
        }
    }
}

async fn create(archive: &Arc<Archive>, id: &str, request: &CertificateRequest) -> Result<Kept, Failure> {
    let pair = KeyPair::generate().map_err(|error| Failure::internal(format!("a key for the account: {error}")))?;
    let pem = Zeroizing::new(pair.serialize_pem());
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
    let head = AccountHead {
        directory: request.directory.clone(),
        email: request.email.clone(),
        url: None,
        contact_told: false,
    };
    archive.write(Shelf::Accounts, id, head.clone(), pem.clone()).await?;
    Ok((head, pem, key))
}

async fn transport(request: &CertificateRequest) -> Result<Transport, Failure> {
    let roots = request.roots.clone();
    let made = tokio::task::spawn_blocking(move || Transport::new(roots.as_deref())).await;
    let made = made.map_err(|error| Failure::internal(error.to_string()))?;
    made.map_err(|error| Failure::Unreachable {
        step: "the connection to the directory",
        text: error.to_string(),
        retry_after: None,
    })
}

async fn restore(
    transport: &Transport,
    url: &str,
    key: &PrivatePkcs8KeyDer<'static>,
    request: &CertificateRequest,
) -> Result<Account, Failure> {
    steady!(transport, "the directory", async {
        let builder = Account::builder_with_http(Box::new(transport.clone()));
        builder.from_parts(url.to_owned(), key.clone_key(), request.directory.clone()).await
    })
}

/// Registration agrees to the authority's terms of service, as the user does by naming the authority.
async fn register(
    transport: &Transport,
    key: &PrivatePkcs8KeyDer<'static>,
    request: &CertificateRequest,
) -> Result<Account, Failure> {
    steady!(transport, "the registration of the account", async {
        let pair = (Key::from_pkcs8_der(key.clone_key())?, PrivateKeyDer::Pkcs8(key.clone_key()));
        let builder = Account::builder_with_http(Box::new(transport.clone()));
        let (account, _) = builder.create_from_key(pair, request.directory.clone()).await?;
        Ok::<_, Error>(account)
    })
}
