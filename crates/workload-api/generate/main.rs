//! Writes `src/pb.rs`, the Workload API's messages and stubs, from `proto/workload.proto`.
//!
//! ```sh
//! cargo run --locked --manifest-path crates/workload-api/generate/Cargo.toml             # writes the file
//! cargo run --locked --manifest-path crates/workload-api/generate/Cargo.toml -- --check  # fails if it is stale
//! ```

use std::{
    env,
    error::Error,
    fs,
    path::Path,
    process::{Command, ExitCode},
};

/// The directory of the crate `workload-api`.
const CRATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const HEADER: &str = "\
// @generated from proto/workload.proto by generate/main.rs. Do not edit.
";
const USAGE: &str = "usage: generate [--check]";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let check = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    let generated = generate()?;
    let path = Path::new(CRATE).join("src/pb.rs");
    if !check {
        fs::write(path, generated)?;
    } else if fs::read_to_string(path)? != generated {
        eprintln!(
            "crates/workload-api/src/pb.rs is not what proto/workload.proto generates; run: \
             cargo run --locked --manifest-path crates/workload-api/generate/Cargo.toml"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the source of the messages and stubs, formatted as `cargo fmt` formats the workspace.
fn generate() -> Result<String, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let files = protox::compile(["workload.proto"], [Path::new(CRATE).join("proto")])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(directory.path())
        .compile_fds(files)?;
    // The file has no other name because the standard gives the API no protobuf package.
    let file = directory.path().join("_.rs");
    let code = fs::read_to_string(&file)?;
    fs::write(&file, format!("{HEADER}{code}"))?;
    let status = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .arg(&file)
        .status()?;
    if !status.success() {
        return Err(format!("rustfmt failed: {status}").into());
    }
    Ok(fs::read_to_string(file)?)
}
