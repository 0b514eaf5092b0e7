//! What every verb begins with: the home, the settings, the daemon if one runs.

use std::path::PathBuf;

use polymath_blobs::{DiskLimit, Store, StoreOptions};
use polymath_node::{
    Control, Home,
    config::{Config, Effective, Log},
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
    pub(crate) fn new(mut global: Global) -> Self {
        global.home = global.home.filter(|h| !h.as_os_str().is_empty());
        let json = global.json;
        Self { global, json }
    }

    /// The flag that names the home, where one was named: for commands that people are told to type.
    pub(crate) fn home_flag(&self) -> String {
        let Some(home) = &self.global.home else {
            return String::new();
        };
        let home = home.display().to_string();
        let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%".contains(c);
        if home.chars().all(plain) {
            format!("--home {home} ")
        } else {
            format!("--home '{}' ", home.replace('\'', "'\\''"))
        }
    }

    /// A text whose commands (`polymath ...`) speak of this home.
    pub(crate) fn hint(&self, text: &str) -> String {
        text.replace("`polymath ", &format!("`polymath {}", self.home_flag()))
    }

    /// The same for a failure.
    pub(crate) fn hinted(&self, mut failure: Failure) -> Failure {
        failure.message = self.hint(&failure.message);
        for attempt in &mut failure.attempts {
            attempt.outcome = self.hint(&attempt.outcome);
        }
        failure
    }

    /// The home as it is, or is not: for verbs that only look.
    pub(crate) fn unopened_home(&self) -> Result<Home, Failure> {
        Ok(Home::at(Home::locate(self.global.home.as_deref())?))
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

    /// Logs begun by the global flags alone: for verbs that start nodes of their own and must not
    /// depend on the settings of this one.
    pub(crate) fn begin_apart(&self) -> Result<(), Failure> {
        let mut log = Log::default();
        if let Some(format) = &self.global.log_format {
            log.format.clone_from(format);
        }
        if let Some(level) = &self.global.log_level {
            log.level.clone_from(level);
        }
        logs::begin(&log)
    }

    /// The same for a verb that itself says what others log: without being asked to, nothing is
    /// logged but errors.
    pub(crate) fn begin_quietly(mut self) -> Result<(), Failure> {
        let level = self.global.log_level.take();
        self.global.log_level = Some(level.unwrap_or_else(|| "error".to_owned()));
        self.begin_apart()
    }

    pub(crate) fn store(&self, config: &Config) -> Result<Store, Failure> {
        let dir = if config.models.dir.is_empty() {
            self.home()?.models_dir()
        } else {
            PathBuf::from(&config.models.dir)
        };
        let options = StoreOptions {
            limit: match config.limits.disk.bytes() {
                Some(bytes) => Some(DiskLimit {
                    bytes,
                    beside: Some(self.home()?.dir().to_owned()),
                }),
                None => None,
            },
            ..StoreOptions::default()
        };
        Store::open_with(&dir, options).map_err(|e| Failure::new(e.kind(), e.to_string()))
    }

    /// The running node, if there is one. Looking for it leaves no trace.
    pub(crate) async fn daemon(&self) -> Result<Option<Control>, Failure> {
        polymath_node::connect(&self.unopened_home()?).await
    }

    /// The running node, or what to do.
    pub(crate) async fn running(&self) -> Result<Control, Failure> {
        self.daemon().await?.ok_or_else(|| {
            Failure::new(
                ErrorKind::Unavailable,
                "no node runs here: start one with `polymath up`",
            )
        })
    }
}
