use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Identifier, NewOrder, Order,
    OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tidegate_core::SecretBytes;
use tidegate_sds::SecretStore;

use crate::ChallengeKind;
use crate::account::Session;
use crate::archive::Archive;
use crate::call::steady;
use crate::challenge::OpenChallenges;
use crate::failure::{Failure, ProblemKind, plain, words};
use crate::key::PrivateKey;
use crate::leaf::Pair;
use crate::request::CertificateRequest;
use crate::state::Shelf;

const POLL_FIRST: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(5);
/// An authority that asks for a longer pause between two looks is asked after this all the same.
const POLL_RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const VALIDATION_LIMIT: Duration = Duration::from_secs(5 * 60);
const ISSUANCE_LIMIT: Duration = Duration::from_secs(5 * 60);
/// What the state directory takes.
const MAX_CHAIN: usize = 128 * 1024;
/// An order that is older starts anew.
const ORDER_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// An order in progress as it is kept; the key of the certificate-to-be follows as PEM.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderHead {
    pub(crate) name: String,
    directory: String,
    email: Option<String>,
    dns_names: Vec<String>,
    /// None before the authority has it.
    url: Option<String>,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

/// One attempt to get a certificate: everything that it needs.
pub(crate) struct Attempt {
    pub(crate) request: CertificateRequest,
    pub(crate) archive: Arc<Archive>,
    pub(crate) store: Arc<SecretStore>,
    pub(crate) now: SystemTime,
    /// The certificate that this one follows, if the authority offers renewal information (RFC 9773 section 5).
    pub(crate) replaces: Option<CertificateDer<'static>>,
    /// Counts orders that were placed.
    pub(crate) placed: Arc<AtomicU64>,
}

/// An order at the authority with the key of its certificate.
struct Progress {
    order: Order,
    key: PrivateKey,
}

impl Attempt {
    /// Brings an order from wherever it stands to its certificate. Cancel safe: whatever was done is on the disk, and
    /// the next attempt goes on from there.
    pub(crate) async fn run(self) -> Result<Pair, Failure> {
        match self.once().await {
            Err(failure) if failure.problem() == Some(ProblemKind::AccountUnknown) => {
                tracing::warn!(directory = %self.request.directory, "the acme authority lost the account; registering it again");
                Session::forget(&self.archive, &self.request).await?;
                self.drop_order().await?;
                self.once().await
            }
            result => result,
        }
    }

    async fn once(&self) -> Result<Pair, Failure> {
        let session = Session::open(&self.archive, &self.request).await?;
        let mut progress = self.take_up(&session).await?;
        let result = self.complete(&session, &mut progress).await;
        // These end an order; after anything else it may be gone on with.
        if matches!(result, Err(Failure::Validation(_) | Failure::Ended(_) | Failure::Misissued(_))) {
            self.drop_order().await?;
        }
        result
    }

    /// The order that an earlier attempt, maybe of an earlier process, left; else a new one.
    async fn take_up(&self, session: &Session) -> Result<Progress, Failure> {
        let key = match self.kept().await? {
            Some((head, key)) => {
                if let Some(url) = head.url
                    && let Some(order) = self.resume(session, url).await?
                {
                    return Ok(Progress { order, key });
                }
                key
            }
            None => PrivateKey::generate()?,
        };
        self.keep(None, &key).await?;
        let order = self.place(session).await?;
        self.placed.fetch_add(1, Relaxed);
        self.keep(Some(order.url().to_owned()), &key).await?;
        Ok(Progress { order, key })
    }

    /// The kept order if it is one for this request.
    async fn kept(&self) -> Result<Option<(OrderHead, PrivateKey)>, Failure> {
        let id = self.request.name.as_str();
        let Some(record) = self.archive.read::<OrderHead>(Shelf::Orders, id).await? else { return Ok(None) };
        let head = record.head;
        let wanted = OrderHead { url: head.url.clone(), created: head.created, ..self.head(None) };
        let age = self.now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(head.created));
        if head != wanted || age.unwrap_or_default() > ORDER_AGE_MAX {
            return Ok(None);
        }
        match PrivateKey::of_pem(&record.pem) {
            Ok(key) => Ok(Some((head, key))),
            Err(error) => {
                self.archive.set_aside(Shelf::Orders, id, format!("its key: {error}")).await?;
                Ok(None)
            }
        }
    }

    fn head(&self, url: Option<String>) -> OrderHead {
        OrderHead {
            name: self.request.name.as_str().to_owned(),
            directory: self.request.directory.clone(),
            email: self.request.email.clone(),
            dns_names: self.request.dns_names.clone(),
            url,
            created: self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    async fn keep(&self, url: Option<String>, key: &PrivateKey) -> Result<(), Failure> {
        self.archive.write(Shelf::Orders, self.request.name.as_str(), self.head(url), key.to_pem()).await
    }

    async fn drop_order(&self) -> Result<(), Failure> {
        self.archive.remove(Shelf::Orders, self.request.name.as_str()).await
    }

    /// The order at `url` unless it is dead or the authority lost it.
    async fn resume(&self, session: &Session, url: String) -> Result<Option<Order>, Failure> {
        let found = steady!(&session.transport, "the order in progress", session.account.order(url.clone()));
        match found {
            Ok(mut order) => match order.state().status {
                OrderStatus::Invalid => Ok(None),
                _ => {
                    tracing::info!(secret = %self.request.name, order = %order.url(), "acme order resumed");
                    Ok(Some(order))
                }
            },
            Err(failure) if failure.problem() == Some(ProblemKind::Other) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn place(&self, session: &Session) -> Result<Order, Failure> {
        let names: Vec<Identifier> = self.request.dns_names.iter().cloned().map(Identifier::Dns).collect();
        let replaces = self.replaces.as_ref().and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
        if let Some(replaces) = replaces {
            let order = NewOrder::new(&names).replaces(replaces.into_owned());
            let placed = steady!(&session.transport, "the order", session.account.new_order(&order));
            // Saying what is replaced is a courtesy: an authority that minds gets the order without it.
            match placed {
                Err(Failure::Refused { kind: ProblemKind::AlreadyReplaced | ProblemKind::Other, .. })
                | Err(Failure::Unreachable { .. } | Failure::Authority(_)) => {}
                placed => return placed,
            }
        }
        let order = NewOrder::new(&names);
        steady!(&session.transport, "the order", session.account.new_order(&order))
    }

    async fn complete(&self, session: &Session, progress: &mut Progress) -> Result<Pair, Failure> {
        let Progress { order, key } = progress;
        if order.state().status == OrderStatus::Pending {
            let mut open = OpenChallenges::new(self.store.clone());
            self.answer(session, order, &mut open).await?;
            let validated = "validate the names";
            self.await_change(session, order, OrderStatus::Pending, validated, VALIDATION_LIMIT).await?;
        }
        if order.state().status == OrderStatus::Ready {
            let request = self.signing_request(key)?;
            steady!(&session.transport, "the signing request", order.finalize_csr(&request))?;
        }
        let issued = "issue the certificate";
        self.await_change(session, order, OrderStatus::Processing, issued, ISSUANCE_LIMIT).await?;
        match order.state().status {
            OrderStatus::Valid => {}
            OrderStatus::Invalid => return Err(self.why_invalid(session, order).await),
            status => return Err(Failure::authority(format!("an order is {status:?} after its signing request"))),
        }
        let chain = steady!(&session.transport, "the download of the certificate", order.certificate())?
            .ok_or_else(|| Failure::authority("a valid order has no certificate"))?;
        self.judge(chain, key)
    }

    /// Lays down the answer to every open challenge and tells the authority.
    async fn answer(&self, session: &Session, order: &mut Order, open: &mut OpenChallenges) -> Result<(), Failure> {
        load_authorizations(session, order).await?;
        let mut authorizations = order.authorizations();
        // They are loaded: no call is made here.
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| Failure::authority(error.to_string()))?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(Failure::Validation(format!("{}: {status:?}", authorization.identifier()))),
            }
            let domain = match authorization.identifier().identifier {
                Identifier::Dns(name) => name.to_ascii_lowercase(),
                other => return Err(Failure::authority(format!("it wants {other:?} authorized"))),
            };
            if !self.request.dns_names.contains(&domain) {
                return Err(Failure::authority(format!("it wants {domain} authorized, which was not ordered")));
            }
            let kind = match self.request.challenge {
                ChallengeKind::Http01 => ChallengeType::Http01,
                ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                let kind = self.request.challenge.as_str();
                return Err(Failure::Validation(format!("{domain}: the authority does not offer {kind} for it")));
            };
            let key_authorization = challenge.key_authorization();
            match self.request.challenge {
                ChallengeKind::Http01 => open.answer_http(&challenge.token, &key_authorization)?,
                ChallengeKind::TlsAlpn01 => open.answer_tls_alpn(&domain, &key_authorization)?,
            }
            if challenge.status == ChallengeStatus::Pending {
                steady!(&session.transport, "the challenge", challenge.set_ready())?;
            }
        }
        Ok(())
    }

    /// Looks at the order until it is no longer `from`.
    async fn await_change(
        &self,
        session: &Session,
        order: &mut Order,
        from: OrderStatus,
        what: &'static str,
        limit: Duration,
    ) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut pause = POLL_FIRST;
        while order.state().status == from {
            let asked = session.transport.retry_after().unwrap_or_default().min(POLL_RETRY_AFTER_MAX);
            let wait = pause.max(asked);
            if tokio::time::Instant::now() + wait > deadline {
                return Err(Failure::Slow { what, limit });
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(POLL_MAX);
            steady!(&session.transport, "the order's state", async { order.refresh().await.map(|_| ()) })?;
        }
        if order.state().status == OrderStatus::Invalid { Err(self.why_invalid(session, order).await) } else { Ok(()) }
    }

    /// The reasons stand at the challenges; the order itself often has none, or repeats one of them.
    async fn why_invalid(&self, session: &Session, order: &mut Order) -> Failure {
        let own = order.state().error.as_ref().map(words);
        let mut reasons: Vec<String> = Vec::new();
        if load_authorizations(session, order).await.is_ok() {
            let mut authorizations = order.authorizations();
            while let Some(Ok(authorization)) = authorizations.next().await {
                let name = authorization.identifier().to_string();
                let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
                reasons.extend(errors.map(|problem| format!("{name}: {}", words(problem))));
            }
        }
        if reasons.is_empty() {
            return Failure::Ended(own.unwrap_or_else(|| "it gives no reason".into()));
        }
        Failure::Validation(plain(&reasons.join("; ")))
    }

    fn signing_request(&self, key: &PrivateKey) -> Result<Vec<u8>, Failure> {
        let broken = |error: rcgen::Error| Failure::internal(format!("the signing request: {error}"));
        let mut params = CertificateParams::new(self.request.dns_names.clone()).map_err(broken)?;
        params.distinguished_name = DistinguishedName::new();
        let key = key.pair().map_err(broken)?;
        Ok(params.serialize_request(&*key).map_err(broken)?.der().to_vec())
    }

    /// Whether what came is what was ordered.
    fn judge(&self, chain: String, key: &PrivateKey) -> Result<Pair, Failure> {
        if chain.len() > MAX_CHAIN {
            return Err(Failure::Misissued(format!("its chain is larger than {MAX_CHAIN} bytes")));
        }
        let pair = Pair::read(SecretBytes::new(chain.into_bytes()), SecretBytes::new(key.to_pem().as_bytes().to_vec()))
            .map_err(|reason| Failure::Misissued(plain(&reason)))?;
        // More names than were ordered are the authority's business.
        if let Some(name) = self.request.dns_names.iter().find(|name| !pair.dns_names.contains(name)) {
            return Err(Failure::Misissued(format!("it is not for {name}")));
        }
        Ok(pair)
    }
}

/// instant-acme goes past an authorization that it could not fetch, so the whole list is what is repeated.
async fn load_authorizations(session: &Session, order: &mut Order) -> Result<(), Failure> {
    steady!(&session.transport, "the authorizations", async {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            authorization?;
        }
        Ok(())
    })
}
