//! End-to-end tests: real daemons, asked through the CLI
