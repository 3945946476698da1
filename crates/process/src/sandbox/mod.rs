//! The sandbox of a process (Landlock): it reaches the files and the TCP ports that its flags name, and no
//! others.
//!
//! - [`Sandbox`]: the rules, made from the flags
//! - `names`: the files of host names and users
//! - `enforce`: the restriction of the threads, as far as the kernel can
//!
//! A process enters its sandbox before it starts another thread, because the kernel restricts a thread and
//! the threads that it starts.

mod enforce;
mod names;

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use clap::ValueEnum;
use common::workload::Address;
use forward::outbound::UpstreamUrl;
use tracing::info;

use crate::listen::ListenAddress;

/// The values of `--sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SandboxMode {
    /// The process is not restricted.
    Off,
    /// The process is restricted as far as the kernel can.
    #[default]
    On,
    /// The process does not start without all restrictions.
    Required,
}

/// The use of a sandbox by a process.
#[derive(Debug)]
pub enum Confinement {
    /// The process makes requests of its own, or ends soon.
    None,
    /// The process needs more than rules can name, for the reason given.
    Impossible(SandboxMode, &'static str),
    /// The process is restricted by these rules.
    Rules(SandboxMode, Sandbox),
}

/// A configuration from which the rules of a sandbox follow.
pub trait Confined {
    /// Returns the use of a sandbox.
    fn confinement(&self) -> Confinement;
}

/// The files and ports that a process reaches.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    reads: BTreeSet<PathBuf>,
    /// Directories whose files the process makes and replaces.
    keeps: BTreeSet<PathBuf>,
    binds: BTreeSet<u16>,
    /// Set if the kernel chooses a port to listen on, so that no rule can name it.
    binds_any: bool,
    connects: BTreeSet<u16>,
    /// Set if the process sends signals to others.
    signals: bool,
}

/// The files of the kernel about this process.
const OWN: &str = "/proc/self";

/// The files that every process reads: those of the kernel about the process and the CPUs, and randomness. A
/// backtrace needs the program's file.
const ALWAYS: [&str; 7] = [
    OWN,
    "/proc/self/exe",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
];

/// The paths of CA certificates on common systems. On some systems some of them are links, and a rule for a link
/// applies to its target.
const SYSTEM_CAS: [&str; 9] = [
    "/etc/ssl",
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];

impl Sandbox {
    /// Returns the rules of a process that reaches only its Workload API.
    #[must_use]
    pub fn of(workload_api: &Address) -> Self {
        let mut sandbox = Self::default();
        sandbox.reads.extend(ALWAYS.map(PathBuf::from));
        // Error texts name the user.
        sandbox.reads.extend(names::users());
        if let Address::Tcp(address) = workload_api {
            sandbox.connects.insert(address.port());
        }
        sandbox
    }

    /// Lets the process listen on an address.
    #[must_use]
    pub fn listens(mut self, address: &ListenAddress) -> Self {
        match address {
            ListenAddress::Ip(address) if address.port() == 0 => self.binds_any = true,
            ListenAddress::Ip(address) => _ = self.binds.insert(address.port()),
            ListenAddress::Unix(path) => _ = self.keeps.insert(directory(path)),
        }
        self
    }

    /// Lets the process connect to an upstream, and look its name up.
    #[must_use]
    pub fn connects(mut self, url: &UpstreamUrl) -> Self {
        let Some(port) = url.tcp_port() else {
            return self;
        };
        self.connects.insert(port);
        if url.is_named() {
            self.connects.insert(names::DNS_PORT);
            self.reads.extend(names::files());
        }
        self
    }

    /// Lets the process read a file at any time. Its directory can be read, because the file may be
    /// replaced by another one. If the file is a link, the directory of its target can be read too.
    #[must_use]
    pub fn reads(mut self, path: &Path) -> Self {
        self.reads.insert(directory(path));
        if let Ok(target) = fs::canonicalize(path) {
            self.reads.insert(directory(&target));
        }
        self
    }

    /// Lets the process read the system's CA certificates, or those that the environment names.
    #[must_use]
    pub fn reads_system_cas(mut self) -> Self {
        self.reads.extend(SYSTEM_CAS.map(PathBuf::from));
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            let paths = env::var_os(variable).unwrap_or_default();
            for path in env::split_paths(&paths) {
                self.reads.extend(files(&path));
                self.reads.insert(path);
            }
        }
        self
    }

    /// Lets the process make and replace a file.
    #[must_use]
    pub fn keeps(mut self, path: &Path) -> Self {
        self.keeps.insert(directory(path));
        self
    }

    /// Lets the process send signals to others.
    #[must_use]
    pub fn signals(mut self) -> Self {
        self.signals = true;
        self
    }
}

/// The line about the sandbox, which follows the checks of the flags.
static LINE: OnceLock<String> = OnceLock::new();

/// Set if files are restricted.
static IN_FORCE: OnceLock<()> = OnceLock::new();

/// Restricts this thread, and the threads that it will start.
///
/// # Errors
/// Fails when all restrictions are required and one is missing.
pub(crate) fn enter(confinement: &Confinement) -> Result<(), String> {
    let line = match confinement {
        Confinement::None
        | Confinement::Rules(SandboxMode::Off, _)
        | Confinement::Impossible(SandboxMode::Off, _) => return Ok(()),
        Confinement::Impossible(SandboxMode::On, reason) => format!("no sandbox: {reason}"),
        Confinement::Impossible(SandboxMode::Required, reason) => {
            return Err(format!(
                "--sandbox required: {reason}; use --sandbox on, or another flag"
            ));
        }
        Confinement::Rules(mode, sandbox) => {
            keep_own_files();
            let enforced = sandbox.enforce(*mode).map_err(|error| format!(
                "cannot enter the sandbox: {error}; --sandbox on takes what the kernel has, and off takes nothing"
            ))?;
            if enforced.restricts_files() {
                IN_FORCE.get_or_init(|| ());
            }
            enforced.to_string()
        }
    };
    LINE.get_or_init(|| line);
    Ok(())
}

/// Logs which restrictions are in force, if there is a sandbox.
pub fn announce() {
    if let Some(line) = LINE.get() {
        info!("{line}");
    }
}

/// Returns the text of a file's error, which names the sandbox if that may be the cause. A rule ends with its
/// directory, and does not apply to a later one of the same name.
#[must_use]
pub fn explained(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied && IN_FORCE.get().is_some() {
        format!(
            "{error}; if its directory is newer than this process, the sandbox denies it: restart this process"
        )
    } else {
        error.to_string()
    }
}

/// Opens the directory of this process in `/proc` for its whole life. A kernel that is short of memory would
/// otherwise forget the directory, and make one to which no rule applies.
fn keep_own_files() {
    static OPENED: OnceLock<Option<File>> = OnceLock::new();
    // A container may have no /proc.
    OPENED.get_or_init(|| File::open(OWN).ok());
}

/// Returns the files of a directory, which may be links to files elsewhere.
fn files(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

/// Returns the directory of a file, which is `.` for a name alone.
fn directory(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|one| !one.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new(".")).to_owned()
}
