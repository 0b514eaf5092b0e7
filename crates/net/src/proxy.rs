//! Dialling through an HTTP proxy, for networks that let nothing else out (RFC 9110, CONNECT).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, TransportError,
    core::{
        muxing::SubstreamBox,
        transport::{DialOpts, ListenerId, Transport, TransportEvent},
    },
    multiaddr::Protocol,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::address::scope_of;
use crate::report::Scope;

/// Longest answer of a proxy, bytes.
const MAX_ANSWER: usize = 8192;
/// A proxy must have connected by then.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Dials global TCP addresses through the proxy at `host:port`; leaves all others to the next
/// transport.
#[derive(Debug, Clone)]
pub(crate) struct Proxied {
    pub(crate) proxy: Option<String>,
}

impl Transport for Proxied {
    type Output = SubstreamBox;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<SubstreamBox>>;
    type Dial = BoxFuture<'static, io::Result<SubstreamBox>>;

    fn listen_on(
        &mut self,
        _: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(addr))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        _: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        match (&self.proxy, target(&addr)) {
            (Some(proxy), Some(target)) if scope_of(&addr) == Scope::Global => {
                Ok(connect(proxy.clone(), target).boxed())
            }
            _ => Err(TransportError::MultiaddrNotSupported(addr)),
        }
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}

/// `host:port` of a plain TCP address.
fn target(addr: &Multiaddr) -> Option<String> {
    let mut parts = addr.iter();
    let host = match parts.next()? {
        Protocol::Ip4(ip) => ip.to_string(),
        Protocol::Ip6(ip) => format!("[{ip}]"),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => name.into_owned(),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else {
        return None;
    };
    let plain = matches!(parts.next(), None | Some(Protocol::P2p(_)));
    let harmless = host.bytes().all(|b| b.is_ascii_graphic());
    (plain && harmless).then(|| format!("{host}:{port}"))
}

async fn connect(proxy: String, target: String) -> io::Result<SubstreamBox> {
    let told = |what: String| io::Error::other(format!("proxy {proxy}: {what}"));
    let dialled = async {
        let mut stream = TcpStream::connect(&proxy).await?;
        stream.set_nodelay(true)?;
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let answer = head(&mut stream).await?;
        Ok::<_, io::Error>((stream, answer))
    };
    let (stream, answer) = timeout(TIMEOUT, dialled)
        .await
        .map_err(|_| told(format!("no answer within {TIMEOUT:?}")))?
        .map_err(|e| told(e.to_string()))?;
    let status = answer.lines().next().unwrap_or_default();
    match status.split(' ').nth(1).and_then(|s| s.parse().ok()) {
        Some(200..=299) => Ok(SubstreamBox::new(stream.compat())),
        Some(407) => Err(told("it wants a password, which is not supported".into())),
        _ => Err(told(format!("it refused: {}", status.escape_debug()))),
    }
}

/// Reads up to the empty line and no byte further: what follows is the tunnel's.
async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if bytes.len() >= MAX_ANSWER {
            return Err(io::Error::other("its answer is too long"));
        }
        bytes.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    async fn proxy_that_says(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = head(&mut stream).await.unwrap();
            assert!(request.starts_with("CONNECT example.org:443 HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn what_the_proxy_says_decides() {
        let dial = async |answer| {
            let proxy = proxy_that_says(answer).await;
            connect(proxy, "example.org:443".into()).await
        };
        assert!(
            dial("HTTP/1.1 200 Connection established\r\n\r\n")
                .await
                .is_ok()
        );
        let refused = dial("HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap_err();
        assert!(refused.to_string().contains("403"), "{refused}");
        let locked = dial("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            .await
            .unwrap_err();
        assert!(locked.to_string().contains("password"), "{locked}");
    }

    #[test]
    fn only_plain_global_tcp_goes_through_a_proxy() {
        let dials = |addr: &str| {
            let mut proxied = Proxied {
                proxy: Some("127.0.0.1:3128".into()),
            };
            let opts = DialOpts {
                role: libp2p::core::Endpoint::Dialer,
                port_use: Default::default(),
            };
            proxied.dial(addr.parse().unwrap(), opts).is_ok()
        };
        assert!(dials("/ip4/11.0.0.7/tcp/443"));
        assert!(dials("/dns4/example.org/tcp/443"));
        assert!(!dials("/ip4/192.168.1.1/tcp/443"));
        assert!(!dials("/ip4/11.0.0.7/udp/443/quic-v1"));
        assert_eq!(
            target(&"/ip6/2001:db8::1/tcp/1".parse().unwrap()).unwrap(),
            "[2001:db8::1]:1"
        );
    }
}
