//! Pingora's proxy with a connector of our own.
//!
//! Pingora gives such a proxy only inside of a `Service`, which keeps it until a `Server` runs the service, and we have
//! neither: connections are accepted by our own loops, which need the proxy itself. This module takes it out. Nothing
//! else in the crate is unsafe.

#![expect(unsafe_code, reason = "Pingora has no function that gives the proxy away")]

use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;

use futures::FutureExt;
use pingora_core::connectors::http::custom::Connector;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, ProxyHttp, ProxyServiceBuilder};

/// A proxy for `service` whose connections of custom protocols are opened by `connector`. The shell of Pingora's
/// service around it, some hundred bytes, is never freed: call this once for each worker.
pub(crate) fn with_connector<S, C>(conf: &Arc<ServerConf>, service: S, connector: C) -> HttpProxy<S, C>
where
    S: ProxyHttp + Send + Sync + 'static,
    S::CTX: Send + Sync + 'static,
    C: Connector,
{
    // Clients never speak a custom protocol: no stream of ours says that it has negotiated one.
    let no_custom_clients = Arc::new(|_, _, _: &_| async { None }.boxed());
    let shell = ProxyServiceBuilder::new(conf, service).custom(connector, no_custom_clients).build();
    // From here on the shell is neither used nor dropped.
    let shell = ManuallyDrop::new(shell);
    #[expect(clippy::expect_used, reason = "a service has its proxy until it is started, which this one never is")]
    let proxy = ptr::from_ref(shell.app_logic().expect("a service that was not started"));
    // SAFETY: `proxy` points to an initialized value, since it was made of a reference a line above and the shell has
    // not moved since. The value is read out once; its original is never dropped nor used again, because the shell, its
    // only owner, is in `ManuallyDrop` and unreachable when this function returns. So the result is the one owner.
    unsafe { proxy.read() }
}
