//! Checks the files of deploy/ with the tools of their formats.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Checks the alert rules and the dashboard.
mod alerts;
/// Checks that the manifests fit the container image.
mod container;
/// Checks the manifests of Kubernetes.
mod kubernetes;
/// Raises each alert by a process in the state that it is about.
mod raised;
/// Checks that SPIRE's registration covers the units and the manifests.
mod spire;
