//! Everything that makes a binary of the libraries below it: the command line, logs, runtimes, signals,
//! listening sockets, and the protection of the process's memory.
//!
//! - [`cli`]: `main`, and the flags that binaries share
//! - [`listen`]: sockets of our own, or sockets passed to the process
//! - [`service`]: the life of a binary that listens
//! - [`runtime`]: one runtime per core
//! - [`signal`]: SIGTERM and SIGINT
//! - [`telemetry`]: log lines on standard error
//! - [`protect`]: core dumps and tracing

pub mod cli;
pub mod listen;
pub mod protect;
pub mod runtime;
pub mod service;
pub mod signal;
pub mod telemetry;
