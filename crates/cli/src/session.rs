//! What every verb begins with: the home, the settings, the daemon if one runs.

use std::path::PathBuf;

use polymath_blobs::Store;
use polymath_node::{
    Control, Home,
    config::{Config, Effective},
};
use polymath_types::{ErrorKind, Failure};
use toml::Table;

use crate::{args::Global, logs};

/// The global flags, understood.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    global: Global,
    pub(crate) json: bool,
}

impl Session {
    pub(crate) fn new(global: Global) -> Self {
        let json = global.json;
        Self { global, json }
    }

    /// Whether a home was named, so that hints must name it too.
    pub(crate) fn home_flag(&self) -> String {
        self.global
            .home
            .as_ref()
            .map(|h| format!("--home {} ", h.display()))
            .unwrap_or_default()
    }

    pub(crate) fn home(&self) -> Result<Home, Failure> {
        Home::open(Home::locate(self.global.home.as_deref())?)
    }

    /// Settings in force; `flags` holds what the verb's own flags say, in the file's shape.
    pub(crate) fn config(&self, mut flags: Table) -> Result<Effective, Failure> {
        let mut log = Table::new();
        if let Some(format) = &self.global.log_format {
            log.insert("format".into(), format.clone().into());
        }
        if let Some(level) = &self.global.log_level {
            log.insert("level".into(), level.clone().into());
        }
        if !log.is_empty() {
            flags.insert("log".into(), log.into());
        }
        Config::load(
            &self.config_file()?,
            self.global.config.is_some(),
            |name| std::env::var(name).ok(),
            &flags,
        )
    }

    /// The configuration file, whether or not it exists.
    pub(crate) fn config_file(&self) -> Result<PathBuf, Failure> {
        match &self.global.config {
            Some(file) => Ok(file.clone()),
            None => Ok(Home::locate(self.global.home.as_deref())?.join("config.toml")),
        }
    }

    /// Settings without flags of a verb, logs begun.
    pub(crate) fn begin(&self, flags: Table) -> Result<Config, Failure> {
        let config = self.config(flags)?.config;
        logs::begin(&config.log)?;
        Ok(config)
    }

    pub(crate) fn store(&self, config: &Config) -> Result<Store, Failure> {
        let dir = if config.models.dir.is_empty() {
            self.home()?.models_dir()
        } else {
            PathBuf::from(&config.models.dir)
        };
        Store::open(&dir).map_err(|e| Failure::new(e.kind(), e.to_string()))
    }

    /// The running node, if there is one.
    pub(crate) async fn daemon(&self) -> Result<Option<Control>, Failure> {
        polymath_node::connect(&self.home()?).await
    }

    /// The running node, or what to do.
    pub(crate) async fn running(&self) -> Result<Control, Failure> {
        self.daemon().await?.ok_or_else(|| {
            Failure::new(
                ErrorKind::Unavailable,
                format!(
                    "no node runs here: start one with `polymath {}up`",
                    self.home_flag()
                ),
            )
        })
    }
}
