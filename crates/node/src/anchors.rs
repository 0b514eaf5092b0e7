//! The mesh's anchors: where their signed list comes from, and which of several lists counts.
//!
//! A list comes with an invite, from a file, by HTTPS or from a DNS TXT record. Whoever serves it
//! need not be trusted: only the signature of a founder who is still an admin makes it a list of this mesh.
//! The one with the highest serial is kept in the home. No list of a public mesh is built in, because nobody runs
//! anchors on behalf of those who install this.

use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_resolver::{TokioResolver, proto::rr::RData};
use polymath_types::{AnchorList, AnchorsError, ErrorKind, Failure, Genesis, Index};

use crate::{Node, home::write_atomic, random, sources, unix_now};

/// Anchors of meshes that anybody may join, built in: none.
pub const PUBLIC: &[&str] = &[];

/// Between looks at the configured sources.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);
/// The same while some source has failed.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// One source's whole answer.
const WITHIN: Duration = Duration::from_secs(15);

/// Where a list is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    Https(String),
    Dns(String),
}

impl Source {
    /// A path, `https://…` or `dns:NAME`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::new(
                ErrorKind::InvalidInput,
                format!(
                    "'{text}' is no source of anchors: use a file's path, https://HOST/PATH or dns:NAME"
                ),
            )
        };
        if text.is_empty() || text.len() > 2048 || text.chars().any(char::is_control) {
            return Err(wrong());
        }
        match text.split_once(':') {
            Some(("dns", name)) if !name.is_empty() && !name.contains(['/', ' ']) => {
                Ok(Self::Dns(name.to_owned()))
            }
            Some(("https", rest)) if rest.len() > 2 && rest.starts_with("//") => {
                Ok(Self::Https(text.to_owned()))
            }
            Some(("dns" | "https", _)) => Err(wrong()),
            Some((_, rest)) if rest.starts_with("//") => Err(wrong()),
            _ => Ok(Self::File(PathBuf::from(text))),
        }
    }

    /// Fetches the list; whether to believe it is the caller's question.
    pub(crate) async fn load(&self) -> Result<AnchorList, String> {
        let loaded = async {
            match self {
                Self::Dns(name) => from_dns(name).await,
                Self::File(path) => {
                    let path = path.clone();
                    blocking(move || from_file(&path)).await
                }
                Self::Https(url) => {
                    let url = url.clone();
                    blocking(move || from_https(&url)).await
                }
            }
        };
        tokio::time::timeout(WITHIN, loaded)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")))
    }
}

async fn blocking(
    load: impl FnOnce() -> Result<AnchorList, String> + Send + 'static,
) -> Result<AnchorList, String> {
    tokio::task::spawn_blocking(load)
        .await
        .unwrap_or_else(|e| Err(e.to_string()))
}

/// At most as many bytes as a list has, and one more to tell that it has more.
fn bounded(from: impl std::io::Read) -> Result<AnchorList, String> {
    let mut bytes = Vec::new();
    from.take(AnchorList::MAX_BYTES as u64 + 64)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    AnchorList::from_bytes(&bytes).map_err(|e| e.to_string())
}

fn from_file(path: &Path) -> Result<AnchorList, String> {
    bounded(fs::File::open(path).map_err(|e| e.to_string())?)
}

/// Believes the certificates that the operating system believes.
fn from_https(url: &str) -> Result<AnchorList, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ureq::tls::TlsConfig::builder()
        .provider(ureq::tls::TlsProvider::Rustls)
        .root_certs(ureq::tls::RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .https_only(true)
        .max_redirects(3)
        .timeout_global(Some(WITHIN))
        .tls_config(tls)
        .build()
        .into();
    let answer = agent.get(url).call().map_err(|e| e.to_string())?;
    bounded(answer.into_body().into_reader())
}

async fn from_dns(name: &str) -> Result<AnchorList, String> {
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|e| e.to_string())?;
    let found = resolver.txt_lookup(name).await.map_err(|e| e.to_string())?;
    let texts = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::TXT(txt) => String::from_utf8(txt.txt_data.concat()).ok(),
            _ => None,
        });
    let mut newest: Option<AnchorList> = None;
    let mut bad = None;
    for list in texts.filter_map(|text| AnchorList::from_txt(&text)) {
        match list {
            Ok(list) if newest.as_ref().is_none_or(|n| n.serial() < list.serial()) => {
                newest = Some(list);
            }
            Ok(_) => {}
            Err(e) => bad = Some(e.to_string()),
        }
    }
    newest
        .ok_or_else(|| bad.unwrap_or_else(|| "it has no TXT record with a list of anchors".into()))
}

/// What became of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is the newest, and kept.
    New,
    /// It is the one that is kept.
    Known,
    /// It is not used: its serial is not above that of a list signed or seen before.
    Old {
        /// Its own serial.
        serial: u64,
        /// The highest known.
        highest: u64,
    },
}

impl Taken {
    /// Why a list is not used, if it is not.
    pub(crate) fn trouble(self) -> Option<String> {
        match self {
            Self::New | Self::Known => None,
            Self::Old { serial, highest } => Some(format!(
                "its list of anchors has serial {serial}, and {highest} has been seen: a founder must sign a newer one (`polymath mesh anchors`)"
            )),
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// The newest list, with where it came from; it stays when its time is over, for its serial.
    list: Option<(AnchorList, String)>,
    /// Of every list that a founder vouched for, those that came too late to be used as well.
    highest: u64,
}

/// The list in force, with where it came from.
#[derive(Debug)]
pub(crate) struct Anchors {
    genesis: Genesis,
    file: PathBuf,
    kept: Mutex<Kept>,
    /// Has the charter, in which a founder may have lost its say.
    index: Arc<ArcSwap<Index>>,
}

impl Anchors {
    /// What the home has kept of this mesh's anchors in `dir`.
    pub(crate) fn open(genesis: &Genesis, dir: &Path) -> Self {
        let anchors = Self {
            genesis: genesis.clone(),
            file: dir.join("anchors.json"),
            kept: Mutex::default(),
            index: Arc::default(),
        };
        match from_file(&anchors.file) {
            // Of one that has expired the serial still counts.
            Ok(list) => match list.verify(genesis, unix_now()) {
                Ok(()) | Err(AnchorsError::Expired) => {
                    *anchors.lock() = Kept {
                        highest: list.serial(),
                        list: Some((list, "this home".into())),
                    };
                }
                Err(e) => tracing::warn!("{}: {e}", anchors.file.display()),
            },
            Err(e) if anchors.file.exists() => {
                tracing::warn!("{}: {e}", anchors.file.display());
            }
            Err(_) => {}
        }
        anchors
    }

    /// The same, heeding the charter of this index.
    pub(crate) fn heeding(mut self, index: Arc<ArcSwap<Index>>) -> Self {
        self.index = index;
        self
    }

    /// Whether the one who signed a list has a say in the mesh still.
    fn stands(&self, list: &AnchorList) -> bool {
        let index = self.index.load();
        let charter = index.charter();
        // Where no catalog was opened nothing is known of admins.
        charter.admins.is_empty() || list.signer().is_some_and(|s| charter.is_admin(&s))
    }

    /// What is kept; nothing of a founder who has no say any more, whose serial could be the last.
    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept
            .list
            .as_ref()
            .is_some_and(|(list, _)| !self.stands(list))
        {
            *kept = Kept::default();
        }
        kept
    }

    /// Takes a list over if a founder vouches for it and it is newer than every other; says whether
    /// it was.
    pub(crate) fn offer(&self, list: &AnchorList, from: &str) -> Result<Taken, Failure> {
        let mut kept = self.lock();
        match list.verify(&self.genesis, unix_now()) {
            Ok(()) => {}
            Err(e) => {
                if e == AnchorsError::Expired && self.stands(list) {
                    kept.highest = kept.highest.max(list.serial());
                }
                let kind = match e {
                    AnchorsError::Version(_) => ErrorKind::VersionMismatch,
                    AnchorsError::Malformed(_) => ErrorKind::DataLoss,
                    _ => ErrorKind::FailedPrecondition,
                };
                return Err(Failure::new(kind, e.to_string()));
            }
        }
        if !self.stands(list) {
            return Err(Failure::new(
                ErrorKind::PermissionDenied,
                "the founder that signed this list of anchors is no admin of the mesh any more: let another sign one (`polymath mesh anchors`)",
            ));
        }
        if kept.list.as_ref().is_some_and(|(known, _)| known == list) {
            return Ok(Taken::Known);
        }
        let newest = kept.list.as_ref().map_or(0, |(known, _)| known.serial());
        if newest >= list.serial() {
            return Ok(Taken::Old {
                serial: list.serial(),
                highest: kept.highest,
            });
        }
        write_atomic(&self.file, &list.to_bytes())?;
        kept.highest = kept.highest.max(list.serial());
        kept.list = Some((list.clone(), from.to_owned()));
        Ok(Taken::New)
    }

    /// A serial above that of every list signed or seen here, whether it is still in force or not.
    pub(crate) fn next_serial(&self) -> u64 {
        self.lock().highest.saturating_add(1)
    }

    /// The list in force and where it came from.
    pub(crate) fn current(&self) -> Option<(AnchorList, String)> {
        let newest = self.lock().list.clone();
        newest.filter(|(list, _)| list.expires().is_none_or(|end| end > unix_now()))
    }

    /// Where the anchors are.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let current = self.current();
        current.map_or_else(Vec::new, |(list, _)| list.addresses().to_vec())
    }
}

/// Loads the configured lists, now and every hour.
pub(crate) async fn follow(node: Node) {
    let inner = &node.inner;
    let configured: Vec<_> = inner
        .config
        .net
        .anchors
        .iter()
        .filter_map(|text| Some((text, Source::parse(text).ok()?)))
        .collect();
    if configured.is_empty() {
        return;
    }
    let mut told = false;
    let mut passed_over = HashMap::new();
    loop {
        let mut failed = None;
        for (text, source) in &configured {
            let loaded = tokio::select! {
                () = inner.cancel.cancelled() => return,
                loaded = source.load() => loaded,
            };
            let taken =
                loaded.and_then(|list| inner.anchors.offer(&list, text).map_err(|f| f.message));
            match taken {
                Ok(Taken::New) => tracing::info!("a newer list of anchors from {text}"),
                Ok(Taken::Known) => {}
                // A source may lag behind for a while, so it is told once, and asked no oftener.
                Ok(old) => {
                    if let Some(why) = old.trouble()
                        && passed_over.insert(*text, old) != Some(old)
                    {
                        tracing::warn!("{text} is passed over: {why}");
                        let outcome = Err(format!("{text}: {why}"));
                        inner.sources.note(sources::Kind::Anchors, outcome);
                    }
                }
                Err(e) => failed = Some(format!("{text}: {e}")),
            }
        }
        let pause = match &failed {
            Some(e) => {
                inner.sources.note(sources::Kind::Anchors, Err(e.clone()));
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("no list of anchors from {e}; it is tried again");
                }
                TRY_AGAIN
            }
            None => LOOK_AGAIN,
        };
        let pause = crate::members::jittered(pause, random());
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use polymath_types::{Admin, Charter, NodeKey};

    use super::*;

    fn list(genesis: &Genesis, founder: &NodeKey, serial: u64) -> AnchorList {
        let address = format!("/ip4/192.0.2.1/tcp/1/p2p/{}", founder.peer_id());
        AnchorList::sign(genesis, founder, serial, 1, None, vec![address]).unwrap()
    }

    #[test]
    fn a_source_is_a_path_https_or_dns() {
        let parse = |text: &str| Source::parse(text).ok();
        assert_eq!(parse("a.json"), Some(Source::File("a.json".into())));
        assert_eq!(parse("/x/a:b"), Some(Source::File("/x/a:b".into())));
        let url = "https://mesh.invalid/anchors";
        assert_eq!(parse(url), Some(Source::Https(url.into())));
        assert_eq!(
            parse("dns:mesh.invalid"),
            Some(Source::Dns("mesh.invalid".into()))
        );
        for bad in [
            "",
            "http://mesh.invalid",
            "ftp://x",
            "dns:",
            "https:",
            "a\nb",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_higher_serial_wins_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let founder = NodeKey::generate();
        let genesis = Genesis::new("home", &founder.keypair().public()).unwrap();
        let anchors = Anchors::open(&genesis, dir.path());
        assert!(anchors.addresses().is_empty());
        let file = dir.path().join("given.json");
        fs::write(&file, list(&genesis, &founder, 2).to_bytes()).unwrap();
        let given = Source::File(file.clone()).load().await.unwrap();
        assert_eq!(anchors.offer(&given, "file").unwrap(), Taken::New);
        assert_eq!(anchors.offer(&given, "again").unwrap(), Taken::Known);
        let old = anchors.offer(&list(&genesis, &founder, 1), "old").unwrap();
        assert!(old.trouble().unwrap().contains("serial 1, and 2"));
        let again = Anchors::open(&genesis, dir.path());
        assert_eq!(again.current().unwrap().0.serial(), 2);
        let other = Genesis::new("other", &founder.keypair().public()).unwrap();
        let foreign = anchors
            .offer(&list(&other, &founder, 9), "far")
            .unwrap_err();
        assert_eq!(foreign.kind, ErrorKind::FailedPrecondition);
        fs::write(&file, vec![b'x'; 100_000]).unwrap();
        assert!(Source::File(file).load().await.is_err());
        assert!(Source::File("/nowhere/at/all".into()).load().await.is_err());
    }

    #[test]
    fn a_list_whose_time_is_over_keeps_its_serial() {
        let dir = tempfile::tempdir().unwrap();
        let founder = NodeKey::generate();
        let genesis = Genesis::new("home", &founder.keypair().public()).unwrap();
        let address = format!("/ip4/192.0.2.1/tcp/1/p2p/{}", founder.peer_id());
        let until = |serial, end| {
            let addresses = vec![address.clone()];
            AnchorList::sign(&genesis, &founder, serial, 1, Some(end), addresses).unwrap()
        };
        fs::write(dir.path().join("anchors.json"), until(4, 2).to_bytes()).unwrap();
        let anchors = Anchors::open(&genesis, dir.path());
        assert_eq!((anchors.current(), anchors.next_serial()), (None, 5));
        // Members that have seen the fourth would pass the first over.
        let low = anchors.offer(&list(&genesis, &founder, 1), "low").unwrap();
        let highest = 4;
        assert_eq!(low, Taken::Old { serial: 1, highest });
        // So would those who know of one that comes here too late to be used.
        assert!(anchors.offer(&until(7, 2), "late").is_err());
        assert_eq!(anchors.next_serial(), 8);
        let next = list(&genesis, &founder, 8);
        assert_eq!(anchors.offer(&next, "next").unwrap(), Taken::New);
        assert_eq!(anchors.current().unwrap().0.serial(), 8);
    }

    #[test]
    fn a_founder_that_is_no_admin_any_more_signs_nothing_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        let founder = NodeKey::generate();
        let genesis = Genesis::new("home", &founder.keypair().public()).unwrap();
        let index = Arc::new(ArcSwap::from_pointee(Index::default()));
        let admins = |peer| {
            let (by, at) = (None, 0);
            let admins = vec![Admin { peer, by, at }];
            let mut index = Index::default();
            index.set_charter(Arc::new(Charter {
                admins,
                ..Charter::default()
            }));
            Arc::new(index)
        };
        index.store(admins(founder.peer_id()));
        let anchors = Anchors::open(&genesis, dir.path()).heeding(Arc::clone(&index));
        let last = list(&genesis, &founder, u64::MAX);
        assert_eq!(anchors.offer(&last, "thief").unwrap(), Taken::New);
        index.store(admins(NodeKey::generate().peer_id()));
        assert_eq!((anchors.current(), anchors.next_serial()), (None, 1));
        let refused = anchors.offer(&last, "thief").unwrap_err();
        assert_eq!(refused.kind, ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn what_does_not_speak_tls_is_no_source() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        std::thread::spawn(move || drop(silent.accept()));
        let url = format!("https://127.0.0.1:{port}/anchors.json");
        assert!(Source::Https(url).load().await.is_err());
    }
}
