//! The application's servers: one listener a service, on loopback, on a thread of their own.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::caller::Caller;
use super::services::{Application, Service};

/// Connections to one service at a time.
const MAX_CONNECTIONS: usize = 1024;
/// Limit for reading a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where one service listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) service: Service,
    pub(crate) address: SocketAddr,
}

/// The running application. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Backends {
    addresses: Vec<Backend>,
    listeners: Vec<(Service, TcpListener)>,
    runtime: Runtime,
}

impl Backends {
    /// Opens a socket for each service; they answer once [`Backends::serve`] was called.
    ///
    /// # Errors
    /// No thread or no socket is to be had.
    pub(crate) fn bind() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("demo")
            .enable_all()
            .build()
            .context("cannot start a thread for the demo's services")?;
        let listeners = runtime.block_on(async {
            let mut listeners = Vec::new();
            for service in Service::ALL {
                listeners.push((service, TcpListener::bind(("127.0.0.1", 0)).await?));
            }
            Ok::<_, std::io::Error>(listeners)
        });
        let listeners = listeners.context("cannot open a socket on 127.0.0.1 for the demo's services")?;
        let addresses = listeners
            .iter()
            .map(|(service, listener)| Ok(Backend { service: *service, address: listener.local_addr()? }))
            .collect::<std::io::Result<_>>()?;
        Ok(Self { addresses, listeners, runtime })
    }

    pub(crate) fn addresses(&self) -> &[Backend] {
        &self.addresses
    }

    /// Starts to answer. The services call each other through the gateway on `port`.
    pub(crate) fn serve(&mut self, port: u16, folder: String, url: String, explain_options: Arc<OnceLock<String>>) {
        // The client's pool wants a runtime to live in.
        let _guard = self.runtime.enter();
        let application = Arc::new(Application::new(Caller::new(port), folder, url, explain_options));
        for (service, listener) in self.listeners.drain(..) {
            self.runtime.spawn(accept(service, listener, application.clone()));
        }
    }
}

async fn accept(service: Service, listener: TcpListener, application: Arc<Application>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed, so there always is a permit in the end.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of file descriptors, most likely: some come back when connections end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let application = application.clone();
        tokio::spawn(async move {
            let respond = service_fn(move |request| {
                let application = application.clone();
                async move { Ok::<_, std::convert::Infallible>(application.respond(service, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), respond);
            // A client that goes away is its own business.
            let _ = connection.await;
            drop(permit);
        });
    }
}
