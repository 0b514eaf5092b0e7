//! The arguments of `polymath route`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::Ask;

/// What the data sets look like, in the help of the verbs that read them.
const DATA: &str = polymath_eval::FORMAT;

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Route {
    /// As to `ask`; nothing is asked
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(subcommand)]
    pub(crate) verb: Option<RouteVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogVerb {
    /// Write the latest decisions, a JSON object a line: candidates, scores, propensities, outcomes and ratings,
    /// hashed words in place of texts
    Export {
        /// The file; it must not be there [default: standard output]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteVerb {
    /// The decisions that the running node has noted
    Log {
        #[command(subcommand)]
        verb: LogVerb,
    },
    /// Measure the router on outcomes of real models, beside baselines and what was asked for
    #[command(after_help = DATA)]
    Eval(RouteEval),
    /// Show what quality costs: the router's front beside single experts and mixtures of them
    #[command(after_help = DATA)]
    Pareto(RoutePareto),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RouteEval {
    /// The folder of the data sets, as `cargo xtask data` makes it, or your own
    #[arg(long, value_name = "DIR", required_unless_present = "replay")]
    pub(crate) data: Option<PathBuf>,
    /// Instead of data sets: decide again what `polymath route log export FILE` wrote, and say whether every
    /// expert is found as good as it was
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "only", "policy"])]
    pub(crate) replay: Option<PathBuf>,
    /// Only this experiment; `any` are the files that belong to none; repeatable
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Which policy: learned, likeness, best-single or random
    #[arg(long, value_name = "NAME", default_value = polymath_eval::policies::LEARNED.name)]
    pub(crate) policy: String,
    /// End with exit code 8 when a figure misses what was asked for
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RoutePareto {
    /// The folder of the data sets; NAME_experts.json beside NAME.jsonl gives its experts' prices
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Which policy: learned, likeness, best-single or random
    #[arg(long, value_name = "NAME", default_value = polymath_eval::policies::LEARNED.name)]
    pub(crate) policy: String,
}
