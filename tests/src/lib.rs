//! End-to-end tests: real daemons as processes, asked through the CLI. One file a behaviour, in
//! `tests/`; the harness is `polymath-testkit`.
