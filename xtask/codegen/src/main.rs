//! Regenerates `crates/proto/src/generated` from `proto/`: `cargo xtask codegen`.

use std::{fs, path::Path};

use prost::Message as _;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    let out = match std::env::args().nth(1) {
        Some(dir) => dir.into(),
        None => root.join("crates/proto/src/generated"),
    };
    fs::create_dir_all(&out)?;
    let files = [
        "expert", "catalog", "control", "call", "echo", "files", "live",
    ]
    .map(|f| format!("polymath/v1/{f}.proto"));
    let descriptors = protox::compile(files, [root.join("proto")])?;
    // For reflection: what a client such as grpcurl asks a server to describe itself by.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(out)
        .compile_fds(descriptors)?;
    Ok(())
}
