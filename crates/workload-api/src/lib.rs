//! The messages of the SPIFFE Workload API, and its gRPC stubs.
//!
//! The client side (`common`) and the server side (`dev-agent`) share them. So a test of one against the
//! other does not compare two readings of the protocol's field numbers.

/// The messages and stubs, which `generate` writes from `proto/workload.proto`.
#[expect(missing_docs, unused_qualifications, reason = "generated code")]
pub mod pb;
