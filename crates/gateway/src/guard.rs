//! Keeps web pages out: a page in the user's browser can reach loopback, so the `Host` must be
//! this machine (against DNS rebinding) and an `Origin`, where there is one, must be this very
//! server (against cross-site requests).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use polymath_types::ErrorKind;

use crate::envelope::Refusal;

pub(crate) async fn same_machine(
    State(address): State<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    // HTTP/1.1 says Host; HTTP/2, and a client that takes this for a proxy, say it in the URI.
    let authority = request.uri().authority().map(|a| a.as_str().to_owned());
    match check(request.headers(), authority.as_deref(), address) {
        Ok(()) => next.run(request).await,
        Err(why) => Refusal::new(ErrorKind::PermissionDenied, why).into_response(),
    }
}

fn check(headers: &HeaderMap, authority: Option<&str>, address: SocketAddr) -> Result<(), String> {
    // Of two, a proxy in between may have judged the other one.
    for name in [header::HOST, header::ORIGIN] {
        if headers.get_all(&name).iter().count() > 1 {
            return Err(format!("there is more than one {name} header: send one"));
        }
    }
    let host = headers
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .or(authority)
        .unwrap_or_default();
    if !ours(host, address) || authority.is_some_and(|a| !ours(a, address)) {
        return Err(format!(
            "the Host '{host}' is not this server: use http://{address}"
        ));
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or("null");
    let same = origin
        .strip_prefix("http://")
        .is_some_and(|o| o == host && ours(o, address));
    if same {
        Ok(())
    } else {
        Err(format!("web pages of {origin} may not use this server"))
    }
}

/// Whether `HOST[:PORT]` means this server: a loopback name or the bound address, and its port.
fn ours(host: &str, address: SocketAddr) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let port = match authority.port() {
        Some(port) if digits(port.as_str()) => Some(port.as_u16()),
        Some(_) => None,
        None => Some(80),
    };
    if port != Some(address.port()) || authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let ip = match name.strip_prefix('[') {
        Some(v6) => v6
            .strip_suffix(']')
            .and_then(|v6| v6.parse::<Ipv6Addr>().ok())
            .map(IpAddr::from),
        None => name.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    };
    name.eq_ignore_ascii_case("localhost")
        || ip.is_some_and(|ip| ip.is_loopback() || ip == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_gets_in() {
        let address: SocketAddr = "127.0.0.1:8420".parse().unwrap();
        let try_it = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            check(&headers, None, address).is_ok()
        };
        assert!(try_it("127.0.0.1:8420", None));
        assert!(try_it("localhost:8420", None));
        assert!(try_it("[::1]:8420", None));
        assert!(try_it("localhost:8420", Some("http://localhost:8420")));
        for (host, origin) in [
            ("evil.example:8420", None),
            ("127.0.0.1:9999", None),
            ("localhost", None),
            ("", None),
            ("[[127.0.0.1:8420", None),
            ("localhost:+8420", None),
            ("me@localhost:8420", None),
            ("localhost:8420", Some("https://evil.example")),
            ("localhost:8420", Some("http://localhost:3000")),
            ("localhost:8420", Some("http://127.0.0.1:8420")),
            ("localhost:8420", Some("null")),
            ("evil.example:8420", Some("http://evil.example:8420")),
        ] {
            assert!(!try_it(host, origin), "{host} {origin:?}");
        }
        let mut twice = HeaderMap::new();
        for host in ["127.0.0.1:8420", "evil.example:8420"] {
            twice.append(header::HOST, host.parse().unwrap());
        }
        assert!(check(&twice, None, address).is_err());
    }
}
