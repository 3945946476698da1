//! The metrics of the process itself. The kernel has some of them; one that cannot be read is left out.

use std::{env::consts, fs, time::SystemTime};

use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    unistd::{SysconfVar, sysconf},
};

use super::page::Page;
use crate::{
    admin::conditions::{Report, State},
    telemetry,
};

pub(super) fn write(started: SystemTime, report: &Report, page: &mut Page) {
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("arch", consts::ARCH),
    ];
    page.gauge("spiffe_build_info", "1, with the build as labels.")
        .value(&build, 1);
    let state = report.state();
    let is = |one| u8::from(state == one);
    page.gauge(
        "spiffe_readiness",
        "1 for the state of the process, as /ready has it.",
    )
    .value(&[("state", "ready")], is(State::Met))
    .value(&[("state", "degraded")], is(State::Degraded))
    .value(&[("state", "not_ready")], is(State::Lost));
    page.counter(
        "spiffe_log_lines_lost_total",
        "Log lines that standard error did not take.",
    )
    .value(&[], telemetry::missing());
    page.gauge(
        "process_start_time_seconds",
        "Time at which the process started.",
    )
    .time(&[], started);
    write_resources(page);
}

/// Writes the resources that the process uses, as far as the kernel tells them.
fn write_resources(page: &mut Page) {
    if let Some(files) = open_files() {
        page.gauge("process_open_fds", "Open file descriptors.")
            .value(&[], files);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        page.gauge("process_max_fds", "Limit of open file descriptors.")
            .value(&[], soft);
    }
    if let Some(bytes) = resident_memory() {
        page.gauge("process_resident_memory_bytes", "Resident memory in bytes.")
            .value(&[], bytes);
    }
    if let Some(seconds) = cpu_time() {
        page.counter(
            "process_cpu_seconds_total",
            "Processor time in user and kernel mode.",
        )
        .value(&[], seconds);
    }
}

/// Returns the number of open files, without the one that is open to count them.
fn open_files() -> Option<usize> {
    let files = fs::read_dir("/proc/self/fd").ok()?;
    Some(files.count().saturating_sub(1))
}

fn resident_memory() -> Option<u64> {
    let sizes = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = sizes.split(' ').nth(1)?.parse().ok()?;
    let size = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(size).ok()?)
}

fn cpu_time() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let times = [usage.user_time(), usage.system_time()];
    let seconds = times.map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    Some(seconds.iter().sum())
}
