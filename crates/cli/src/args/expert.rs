//! The verbs of `polymath expert`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ExpertVerb {
    /// Serve a model of your own, or one on a server of yours; at once where a node runs
    Add(Box<Add>),
    /// Change an expert of your own; its model stays
    Edit {
        /// Its name
        name: String,
        #[command(flatten)]
        says: Says,
    },
    /// Show an expert of this home: what it is, how it fares, its definition
    Show {
        /// Its name
        name: String,
    },
    /// Answer no peer by this expert until `resume`; your own questions are answered
    Pause {
        /// Its name
        name: String,
    },
    /// Answer peers again
    Resume {
        /// Its name
        name: String,
    },
    /// Serve an expert no more; the model's files stay (`polymath model rm`)
    Rm {
        /// Its name
        name: String,
    },
    /// List the experts of this home
    Ls,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// A GGUF file, or a folder with one, or with an encoder (model.safetensors, config.json, tokenizer.json)
    #[arg(value_name = "FILE.gguf|FOLDER", required_unless_present = "upstream")]
    pub(crate) path: Option<PathBuf>,
    /// Base address of an OpenAI-compatible server, e.g. http://127.0.0.1:11434/v1
    #[arg(long, value_name = "URL", conflicts_with = "path")]
    pub(crate) upstream: Option<String>,
    /// The model's id on that server [default: the only one there]
    #[arg(long, value_name = "M", requires = "upstream")]
    pub(crate) model: Option<String>,
    /// What it is called [default: by its model]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// generate, embed or classify [default: by its model]
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    #[command(flatten)]
    pub(crate) says: Says,
}

/// What is said of an expert.
#[derive(Debug, Args)]
pub(crate) struct Says {
    /// What it is good at, in a sentence or two: the router compares questions with it
    #[arg(long, value_name = "TEXT")]
    pub(crate) describe: Option<String>,
    /// A question it should get; repeatable
    #[arg(long = "example", value_name = "TEXT")]
    pub(crate) examples: Vec<String>,
    /// Instructions that make the model this expert; empty for none
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// What a classifier tells apart; repeatable
    #[arg(long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// Credits for 1,000 tokens: IN/OUT, or one number for both [default: what the settings say]
    #[arg(long, value_name = "PRICE", allow_hyphen_values = true)]
    pub(crate) price: Option<String>,
    /// Most tokens of an answer, unless the question says otherwise
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// A file that holds the server's API key: read for each call, never shown
    #[arg(long, value_name = "FILE", conflicts_with = "api_key_env")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// The environment variable of the node that holds it
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) api_key_env: Option<String>,
    /// Calls of the server at once [default: 8]
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u32>,
}
