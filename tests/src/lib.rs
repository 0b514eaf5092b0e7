//! End-to-end tests: real daemons as processes, asked through the CLI. One file a behaviour, in
//! `tests/`; the harness is `polymath-testkit`.
//!
//! Where more answers are needed than models here could give, [`script`] answers in a daemon
//! (`scripted-peer`) that is like any other but for its engine, [`says`] says there what it was told to, and
//! [`asker`] asks over the control API.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod asker;
pub mod fake_upstream;
pub mod says;
pub mod script;
