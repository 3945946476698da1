//! The parts that every binary needs: the command line, logs, runtimes, signals, listening sockets,
//! and the protection of the process's memory.
//!
//! - [`admin`]: the listener for operators and probes, and the conditions of the process
//! - [`bundles`]: warnings about trust domains without a bundle
//! - [`cli`]: `main`, and the flags that binaries share
//! - [`doctor`]: the steps of `--doctor`, their verdicts and output
//! - [`listen`]: the process's own sockets, or sockets passed to it
//! - [`policy`]: the rules of a policy file or of the flags
//! - [`service`]: the life of a binary that listens
//! - [`runtime`]: one runtime per core
//! - [`notify`]: the state of the process for a service manager
//! - [`signal`]: SIGTERM, SIGINT and SIGHUP
//! - [`telemetry`]: log lines on standard error
//! - `tenure`: the end of connections with the identity of the process
//! - [`sandbox`]: the files and ports that the process reaches
//! - [`protect`]: core dumps and tracing
//! - [`roots`]: CA certificates that verify a peer by its host name
//! - `export`: the spans for an OpenTelemetry collector, in a build with the feature `otlp`

pub mod admin;
pub mod bundles;
pub mod cli;
pub mod doctor;
mod export;
pub mod listen;
pub mod notify;
pub mod policy;
pub mod protect;
pub mod roots;
pub mod runtime;
pub mod sandbox;
pub mod service;
pub mod signal;
pub mod telemetry;
mod tenure;
