//! Writes the messages of our gRPC protocols, and the stubs of the Workload API, from their `.proto` files.
//!
//! ```sh
//! cargo run --locked --manifest-path crates/workload-api/generate/Cargo.toml             # writes the files
//! cargo run --locked --manifest-path crates/workload-api/generate/Cargo.toml -- --check  # fails if one is stale
//! ```

use std::{
    env,
    error::Error,
    fs,
    path::Path,
    process::{Command, ExitCode},
};

/// The directory of all crates.
const CRATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const USAGE: &str = "usage: generate [--check]";

/// A file of messages, and the source that is generated from it.
struct Protocol {
    krate: &'static str,
    proto: &'static str,
    source: &'static str,
    /// The name that the generator gives the source, which is that of the protobuf package.
    generated: &'static str,
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol {
        krate: "workload-api",
        proto: "workload.proto",
        source: "src/pb.rs",
        // The standard gives the API no protobuf package.
        generated: "_.rs",
    },
    Protocol {
        krate: "server",
        proto: "ext_authz.proto",
        source: "src/ext_authz/pb.rs",
        generated: "ext_authz.rs",
    },
];

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
    for protocol in PROTOCOLS {
        let generated = protocol.generate()?;
        let Protocol {
            krate,
            proto,
            source,
            ..
        } = protocol;
        let path = Path::new(CRATES).join(krate).join(source);
        if !check {
            fs::write(path, generated)?;
        } else if fs::read_to_string(path)? != generated {
            eprintln!(
                "crates/{krate}/{source} is not what proto/{proto} generates; run: \
                 cargo run --locked --manifest-path crates/workload-api/generate/Cargo.toml"
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Protocol {
    /// Returns the source of the messages and stubs, formatted as `cargo fmt` formats the workspace.
    fn generate(&self) -> Result<String, Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let protos = Path::new(CRATES).join(self.krate).join("proto");
        let files = protox::compile([self.proto], [protos])?;
        tonic_prost_build::configure()
            .build_transport(false)
            .emit_rerun_if_changed(false)
            .out_dir(directory.path())
            .compile_fds(files)?;
        let file = directory.path().join(self.generated);
        let code = fs::read_to_string(&file)?;
        let proto = self.proto;
        let header =
            format!("// @generated from proto/{proto} by generate/main.rs. Do not edit.\n");
        fs::write(&file, header + &code)?;
        let status = Command::new("rustfmt")
            .args(["--edition", "2024"])
            .arg(&file)
            .status()?;
        if !status.success() {
            return Err(format!("rustfmt failed: {status}").into());
        }
        Ok(fs::read_to_string(file)?)
    }
}
