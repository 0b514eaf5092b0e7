//! Where a server is.

use std::{fmt, str::FromStr};

use hyper::http::Uri;
use polymath_types::{ErrorKind, Failure};

/// Longest address, bytes.
const LONGEST: usize = 512;

/// A server's base address, such as `http://127.0.0.1:11434/v1`; without a path `/v1` is meant.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) tls: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// From `/` on, without one at its end.
    base: String,
}

impl Address {
    /// The path of an endpoint.
    pub(crate) fn path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.base)
    }

    /// As the `Host` header has it.
    pub(crate) fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == usual {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl FromStr for Address {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let bad = |why: &str| {
            let shown: String = text.chars().take(128).filter(|c| !c.is_control()).collect();
            // What stands before an @ may be a secret.
            let shown = shown.rsplit('@').next().unwrap_or_default();
            Failure::new(
                ErrorKind::InvalidInput,
                format!(
                    "'{shown}' is no address of a server: {why}, such as http://127.0.0.1:11434/v1"
                ),
            )
        };
        if text.len() > LONGEST {
            return Err(bad("it is too long"));
        }
        let uri: Uri = text
            .trim()
            .parse()
            .map_err(|_| bad("write http://HOST:PORT/v1"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad(
                "a password does not belong into it, use --api-key-file",
            ));
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(bad("it must end with its path"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().ends_with(authority.host()) => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(bad("its port is no number from 1 to 65535")),
        };
        let base = match uri.path().trim_end_matches('/') {
            "" => "/v1",
            path => path,
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            base: base.to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.base)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_means_v1() {
        for (given, shown) in [
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434/v1"),
            ("http://127.0.0.1:11434/", "http://127.0.0.1:11434/v1"),
            ("http://[::1]:8080/v1/", "http://[::1]:8080/v1"),
            (
                "https://models.example/openai/v1",
                "https://models.example/openai/v1",
            ),
        ] {
            assert_eq!(given.parse::<Address>().unwrap().to_string(), shown);
        }
        let local: Address = "http://[::1]:8080".parse().unwrap();
        assert_eq!((local.host.as_str(), local.port), ("::1", 8080));
        assert_eq!(local.path("/models"), "/v1/models");
    }

    #[test]
    fn what_is_no_address_is_refused_and_no_password_is_shown() {
        for bad in [
            "",
            "127.0.0.1:11434",
            "ftp://host/",
            "http://",
            "http://host:99999/",
            "http://host:x/",
            "http://host/v1?x=1",
            "http://host/#a",
            "http://a b/",
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput, "{bad}");
            assert!(
                error.message.contains("http://127.0.0.1:11434/v1"),
                "{error}"
            );
        }
        let error = "http://me:hunter2@host/".parse::<Address>().unwrap_err();
        assert!(!error.message.contains("hunter2"), "{error}");
        assert!(
            format!("http://{}", "h".repeat(600))
                .parse::<Address>()
                .is_err()
        );
    }
}
