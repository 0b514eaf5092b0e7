//! One request, one connection: HTTP/1.1 over TCP or TLS. Whoever drops an exchange has closed it.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::Poll,
};

use bytes::Bytes;
use futures_rustls::TlsConnector;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use polymath_types::{ErrorKind, Failure};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::{
    Upstream,
    address::Address,
    key::Key,
    refusal::{self, garbage, lost},
};

/// Largest head of a response, and largest piece of a body that is held.
const HEAD: usize = 64 << 10;
/// Most header lines.
const HEADERS: usize = 128;
/// Most of an error's body that is read.
const ERROR_BODY: usize = 16 << 10;

const AGENT: &str = concat!("polymath/", env!("CARGO_PKG_VERSION"));

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Connection = http1::Connection<TokioIo<Box<dyn Io>>, Full<Bytes>>;

/// A response whose head has come, with success.
pub(crate) struct Exchange {
    response: Response<Incoming>,
    /// Moves the bytes; `None` when it has ended.
    connection: Option<Connection>,
    pub(crate) key: Option<Key>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("status", &self.response.status())
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// The response's content type, in lower case and without parameters.
    pub(crate) fn content_type(&self) -> String {
        let stated = self.response.headers().get(CONTENT_TYPE);
        let stated = stated.and_then(|v| v.to_str().ok()).unwrap_or_default();
        let plain = stated.split(';').next().unwrap_or_default();
        plain.trim().to_ascii_lowercase()
    }

    /// More of the body; `None` at its end. Nothing is lost when this is dropped.
    pub(crate) async fn more(&mut self) -> Option<Result<Bytes, Failure>> {
        let (body, connection) = (self.response.body_mut(), &mut self.connection);
        loop {
            let frame = poll_fn(|cx| {
                // What ends it shows in the body.
                if let Some(moving) = connection
                    && Pin::new(moving).poll(cx).is_ready()
                {
                    *connection = None;
                }
                Pin::new(&mut *body).poll_frame(cx)
            });
            return match frame.await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Some(Ok(data)),
                    // Trailers.
                    Err(_) => continue,
                },
                Err(e) if e.is_parse() => Some(Err(garbage("a body that is no HTTP"))),
                Err(_) => Some(Err(lost("broke off in the middle of its answer"))),
            };
        }
    }

    /// The whole body, unless it is longer than `most`.
    pub(crate) async fn whole(mut self, most: usize, until: Instant) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        loop {
            let more = timeout_at(until, self.more()).await;
            let Some(more) = more.map_err(|_| lost("fell silent in the middle of its answer"))?
            else {
                return Ok(all);
            };
            let more = more?;
            if all.len() + more.len() > most {
                return Err(garbage(format_args!("more than {most} bytes")));
            }
            all.extend_from_slice(&more);
        }
    }
}

impl Upstream {
    /// Sends a request and waits for the head of its response, until `until`.
    pub(crate) async fn send(
        &self,
        endpoint: &str,
        body: Option<Vec<u8>>,
        until: Instant,
    ) -> Result<Exchange, Failure> {
        let config = self.config();
        // Peers are told this: where the key lies is the operator's own affair, see `KeySource::check`.
        let unusable =
            |_| lost("wants an API key that cannot be used, which whoever runs it must put right");
        let key = config.key.read().await.map_err(unusable)?;
        let connecting = connect(&config.address);
        let io = timeout(config.patience.connect, connecting).await;
        let io = io.map_err(|_| lost("takes no connection"))??;
        let request = request(&config.address, endpoint, body, key.as_ref()).map_err(unusable)?;
        let exchanging = exchange(io, request);
        let exchanged = timeout_at(until, exchanging).await;
        let (response, connection) = exchanged.map_err(|_| lost("does not answer"))??;
        let status = response.status();
        let exchange = Exchange {
            response,
            connection,
            key,
        };
        if status == StatusCode::OK {
            return Ok(exchange);
        }
        Err(exchange.refusal(until).await)
    }
}

impl Exchange {
    async fn refusal(mut self, until: Instant) -> Failure {
        let mut body = Vec::new();
        // What of it does not come, or is too long, was not needed.
        while let Ok(Some(Ok(more))) = timeout_at(until, self.more()).await {
            let room = ERROR_BODY - body.len();
            body.extend_from_slice(&more[..more.len().min(room)]);
            if body.len() == ERROR_BODY {
                break;
            }
        }
        let (status, headers) = (self.response.status(), self.response.headers());
        refusal::of_status(status, headers, &body, self.key.as_ref())
    }
}

fn request(
    address: &Address,
    endpoint: &str,
    body: Option<Vec<u8>>,
    key: Option<&Key>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let method = if body.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    let mut request = Request::builder()
        .version(Version::HTTP_11)
        .method(method)
        .uri(address.path(endpoint))
        .header(HOST, address.authority())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json, text/event-stream");
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(key) = key {
        request = request.header(AUTHORIZATION, key.header()?);
    }
    request
        .body(Full::from(body.unwrap_or_default()))
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("no request can be made: {e}")))
}

async fn exchange(
    io: Box<dyn Io>,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Option<Connection>), Failure> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD).max_headers(HEADERS);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(io))
        .await
        .map_err(|_| lost("takes no request"))?;
    let mut connection = Some(connection);
    let mut response = pin!(sender.send_request(request));
    let response = poll_fn(|cx| {
        let mut ended = None;
        if let Some(moving) = &mut connection
            && let Poll::Ready(end) = Pin::new(moving).poll(cx)
        {
            connection = None;
            ended = Some(end);
        }
        match (response.as_mut().poll(cx), ended) {
            (Poll::Pending, Some(_)) => Poll::Ready(Err(lost("broke off before it answered"))),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Ready(Ok(response)), _) => Poll::Ready(Ok(response)),
            (Poll::Ready(Err(e)), _) => Poll::Ready(Err(if e.is_parse_too_large() {
                garbage("a head that is too large")
            } else if e.is_parse() {
                garbage("a head that is no HTTP")
            } else {
                lost("broke off before it answered")
            })),
        }
    })
    .await?;
    Ok((response, connection))
}

async fn connect(address: &Address) -> Result<Box<dyn Io>, Failure> {
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await;
    let tcp = tcp.map_err(|e| lost(format_args!("cannot be reached ({})", reason(&e))))?;
    let _ = tcp.set_nodelay(true);
    if !address.tls {
        return Ok(Box::new(tcp));
    }
    let untrusted = |why: &str| lost(format_args!("is not to be trusted ({why})"));
    let name = address.host.clone().try_into();
    let name = name.map_err(|_| untrusted("no certificate can name it"))?;
    let stream = tls()?.connect(name, tcp.compat()).await;
    let stream = stream.map_err(|e| untrusted(distrust(&e)))?;
    Ok(Box::new(stream.compat()))
}

/// In the system's words, without the address that resolvers like to add.
fn reason(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(_) => e.kind().to_string(),
        None => "its name cannot be resolved".to_owned(),
    }
}

/// Why TLS fails, without the names that a certificate and the error state.
fn distrust(e: &std::io::Error) -> &'static str {
    use rustls::{CertificateError as C, Error};
    tracing::debug!("TLS with a server fails: {e}");
    match e.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(why)) => match why {
            C::Expired | C::ExpiredContext { .. } => "its certificate has expired",
            C::NotValidYet | C::NotValidYetContext { .. } => "its certificate is not valid yet",
            C::NotValidForName | C::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            C::UnknownIssuer => "nobody whom this machine trusts has signed its certificate",
            _ => "its certificate is not valid",
        },
        Some(_) => "it does not speak TLS as it should",
        None => "the connection broke off in its TLS handshake",
    }
}

/// TLS that trusts what this machine trusts; made once.
fn tls() -> Result<TlsConnector, Failure> {
    static MADE: OnceLock<TlsConnector> = OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let failed = |e: rustls::Error| {
        Failure::new(
            ErrorKind::Internal,
            format!("TLS cannot be set up: {e}: install the system's CA certificates"),
        )
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_platform_verifier()
        .map_err(failed)?
        .with_no_client_auth();
    Ok(MADE
        .get_or_init(|| TlsConnector::from(Arc::new(config)))
        .clone())
}
