use std::sync::Arc;

use instant_acme::{Account, Error};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::call::steady;
use crate::failure::Failure;
use crate::key::PrivateKey;
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
        let (mut head, key) = match kept(archive, &id).await? {
            Some(kept) => kept,
            None => create(archive, &id, request).await?,
        };
        let transport = transport(request).await?;
        let account = match &head.url {
            Some(url) => restore(&transport, url, &key, request).await?,
            None => {
                let account = register(&transport, &key, request).await?;
                head.url = Some(account.id().to_owned());
                archive.write(Shelf::Accounts, &id, head.clone(), key.to_pem()).await?;
                account
            }
        };
        if let Some(email) = &request.email
            && !head.contact_told
        {
            let contact = format!("mailto:{email}");
            steady!(&transport, "the account's e-mail address", account.update_contacts(&[contact.as_str()]))?;
            head.contact_told = true;
            archive.write(Shelf::Accounts, &id, head, key.to_pem()).await?;
        }
        Ok(Self { account, transport })
    }

    /// The account if it is registered; nothing is created.
    pub(crate) async fn existing(
        archive: &Arc<Archive>,
        request: &CertificateRequest,
    ) -> Result<Option<Self>, Failure> {
        let Some((AccountHead { url: Some(url), .. }, key)) = kept(archive, &account_id(request)).await? else {
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
            Some((head, key)) => {
                let head = AccountHead { url: None, contact_told: false, ..head };
                archive.write(Shelf::Accounts, &id, head, key.to_pem()).await
            }
            None => Ok(()),
        }
    }
}

type Kept = (AccountHead, PrivateKey);

async fn kept(archive: &Arc<Archive>, id: &str) -> Result<Option<Kept>, Failure> {
    let Some(record) = archive.read::<AccountHead>(Shelf::Accounts, id).await? else { return Ok(None) };
    match PrivateKey::of_pem(&record.pem) {
        Ok(key) => Ok(Some((record.head, key))),
        Err(reason) => {
            archive.set_aside(Shelf::Accounts, id, format!("its key: {reason}")).await?;
            Ok(None)
        }
    }
}

async fn create(archive: &Arc<Archive>, id: &str, request: &CertificateRequest) -> Result<Kept, Failure> {
    let key = PrivateKey::generate()?;
    let head = AccountHead {
        directory: request.directory.clone(),
        email: request.email.clone(),
        url: None,
        contact_told: false,
    };
    archive.write(Shelf::Accounts, id, head.clone(), key.to_pem()).await?;
    Ok((head, key))
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
    key: &PrivateKey,
    request: &CertificateRequest,
) -> Result<Account, Failure> {
    steady!(transport, "the directory", async {
        let builder = Account::builder_with_http(Box::new(transport.clone()));
        builder.from_parts(url.to_owned(), key.pkcs8(), request.directory.clone()).await
    })
}

/// Registration agrees to the authority's terms of service, as the user does by naming the authority.
async fn register(transport: &Transport, key: &PrivateKey, request: &CertificateRequest) -> Result<Account, Failure> {
    steady!(transport, "the registration of the account", async {
        // The second is handed back among the credentials, which nobody wants, and would not be wiped.
        let pair = (key.of_account()?, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(Vec::new())));
        let builder = Account::builder_with_http(Box::new(transport.clone()));
        let (account, _) = builder.create_from_key(pair, request.directory.clone()).await?;
        Ok::<_, Error>(account)
    })
}
