//! The command line.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::{cell::Pattern, scenario::Scenario};

const EXIT_CODES: &str = "\
Exit codes: 0 all is as theory allows · 1 something falls short of it, or the lab itself failed · \
2 wrong usage · 130 interrupted

Needs Linux, root, iproute2, nftables, conntrack and util-linux. All it makes lives in namespaces of its own.";

/// Real polymath daemons behind real NATs, in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "natlab", after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    /// A short set of telling cells and one scenario
    #[arg(long)]
    pub(crate) quick: bool,
    /// Cells run side by side [default: one for each core]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Runs of each cell, rounds of the bulk lane, most rounds of calls
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) repeats: NonZeroUsize,
    /// Only these cells: ASKS/ANSWERS/TRANSPORTS with names or *, e.g. symmetric/*/quic; repeatable
    #[arg(long = "cells", value_name = "PATTERN")]
    pub(crate) cells: Vec<Pattern>,
    /// Only these parts; repeatable [default: all]
    #[arg(long = "part", value_name = "PART")]
    pub(crate) parts: Vec<Part>,
    /// Only calls whose case has all of these words, parted by commas, as in "100 ms, quic"; repeatable
    #[arg(long = "only", value_name = "WORDS")]
    pub(crate) only: Vec<String>,
    /// Only these scenarios; repeatable [default: all]
    #[arg(long = "scenario", value_name = "NAME")]
    pub(crate) scenarios: Vec<Scenario>,
    /// The daemon [default: polymath beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) polymath: Option<PathBuf>,
    /// Keep in this folder what the daemons of runs that fell short logged and say of themselves
    #[arg(long, value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the lab does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Measure that every NAT is what its name says
    SelfTest,
    /// Punch holes with plain sockets between every two, against theory
    Punch,
    /// Run cells
    Matrix,
    /// Run scenarios
    Scenarios,
    /// Measure the bulk lane over a long line that loses packets; only when named
    Bulk,
    /// Measure every way to call over lines of 20, 100 and 150 ms, the last with loss; only when named
    Rpc,
}

impl Args {
    pub(crate) fn wants(&self, part: Part) -> bool {
        let unasked = self.parts.is_empty() && !matches!(part, Part::Bulk | Part::Rpc);
        unasked || self.parts.contains(&part)
    }
}
