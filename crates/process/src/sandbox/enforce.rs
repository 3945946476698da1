//! The restriction of this thread and its descendants by the kernel. The crate `landlock` makes the system calls.

use std::{fmt, path::Path};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, make_bitflags,
};

use super::{Sandbox, SandboxMode};

/// The newest version of Landlock whose restrictions are used. A newer one is not tested here.
const TESTED: ABI = ABI::V6;

/// The restrictions that are in force.
#[derive(Debug)]
pub(super) struct Enforced {
    status: RulesetStatus,
    landlock: LandlockStatus,
    /// Set if the process may listen on any port.
    binds_any: bool,
}

impl Sandbox {
    /// Restricts this thread, and the threads that it will start.
    ///
    /// # Errors
    /// Fails when all restrictions are required and the kernel lacks one, or when the kernel fails.
    pub(super) fn enforce(&self, mode: SandboxMode) -> Result<Enforced, RulesetError> {
        let level = match mode {
            SandboxMode::Required => CompatLevel::HardRequirement,
            SandboxMode::On | SandboxMode::Off => CompatLevel::BestEffort,
        };
        let status = self.rules(level)?.restrict_self()?;
        Ok(Enforced {
            status: status.ruleset,
            landlock: status.landlock,
            binds_any: self.binds_any,
        })
    }

    fn rules(&self, level: CompatLevel) -> Result<RulesetCreated, RulesetError> {
        let scopes = if self.signals {
            Scope::AbstractUnixSocket.into()
        } else {
            Scope::from_all(TESTED)
        };
        let mut rules = Ruleset::default()
            .set_compatibility(level)
            .handle_access(AccessFs::from_all(TESTED))?
            .handle_access(self.ports())?
            .scope(scopes)?
            .create()?;
        for path in &self.reads {
            rules = allow(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
        }
        for path in &self.keeps {
            rules = allow(rules, path, keeping())?;
        }
        let binds = self.binds.iter().filter(|_| !self.binds_any);
        for port in binds {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
        }
        for port in &self.connects {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        Ok(rules)
    }

    /// Returns the uses of ports that need a rule.
    fn ports(&self) -> BitFlags<AccessNet> {
        if self.binds_any {
            AccessNet::ConnectTcp.into()
        } else {
            AccessNet::BindTcp | AccessNet::ConnectTcp
        }
    }
}

/// Returns the kinds of access to a directory whose files the process makes and replaces.
fn keeping() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | MakeReg | MakeSock
    })
}

/// Allows the use of a file, or of a directory and everything in it. A path that does not exist
/// gets no rule.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else {
        return Ok(rules);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(TESTED)
    };
    rules.add_rule(PathBeneath::new(opened, access))
}

impl Enforced {
    /// Returns whether the kernel restricts the use of files.
    pub(super) fn restricts_files(&self) -> bool {
        self.status != RulesetStatus::NotEnforced
    }
}

/// Writes the one line about the sandbox.
impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let abi = match self.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
        };
        let listening = if self.binds_any {
            " (any to listen on)"
        } else {
            ""
        };
        match self.status {
            RulesetStatus::FullyEnforced => write!(
                f,
                "sandbox entered: files, TCP ports{listening}, abstract sockets and signals are restricted (Landlock ABI {abi})"
            ),
            RulesetStatus::PartiallyEnforced => write!(
                f,
                "sandbox entered in part: this kernel restricts files{}, and neither abstract sockets nor signals (Landlock ABI {abi} of {})",
                if abi >= ABI::V4 as i32 {
                    " and TCP ports"
                } else {
                    ", and no TCP ports"
                },
                TESTED as i32
            ),
            RulesetStatus::NotEnforced => f.write_str(
                "no sandbox: this kernel has no Landlock, or it is turned off (lsm= at boot)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::ErrorKind,
        net::{TcpListener, TcpStream},
        os::unix::net::UnixListener,
        thread,
    };

    use common::workload::Address;
    use forward::outbound::{Protocol, UpstreamUrl};
    use nix::{
        errno::Errno,
        sys::signal::kill,
        unistd::{Pid, getppid},
    };
    use tokio::net::TcpSocket;

    use super::*;

    fn abi() -> i32 {
        let probe = thread::spawn(|| Sandbox::default().enforce(SandboxMode::On).unwrap());
        match probe.join().unwrap().landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
            _ => 0,
        }
    }

    /// Runs `attempts` in the sandbox, on a thread of its own. Returns `None` if this kernel lacks a restriction.
    fn inside<T: Send + 'static>(
        sandbox: Sandbox,
        attempts: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let abi = abi();
        if abi < TESTED as i32 {
            // The tests' harness is above this crate.
            eprintln!(
                "skipped: this kernel has Landlock ABI {abi}, and the test needs {}",
                TESTED as i32
            );
            return None;
        }
        let thread = thread::spawn(move || {
            let enforced = sandbox.enforce(SandboxMode::Required).unwrap();
            assert_eq!(enforced.status, RulesetStatus::FullyEnforced);
            attempts()
        });
        Some(thread.join().unwrap())
    }

    fn api() -> Address {
        "unix:///tmp/agent.sock".parse().unwrap()
    }

    fn kind<T>(tried: std::io::Result<T>) -> Option<ErrorKind> {
        tried.err().map(|error| error.kind())
    }

    const DENIED: Option<ErrorKind> = Some(ErrorKind::PermissionDenied);

    #[test]
    fn files_that_no_flag_names_can_neither_be_read_nor_made() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["policy", "kept", "other"] {
            fs::create_dir(at(name)).unwrap();
        }
        let (policy, token, other) = (at("policy/a.toml"), at("kept/token"), at("other/secret"));
        fs::write(&policy, "first").unwrap();
        fs::write(&other, "secret").unwrap();
        let sandbox = Sandbox::of(&api()).reads(&policy).keeps(&token);
        let outside = at("policy");
        let replaced = thread::spawn({
            let (policy, new) = (policy.clone(), outside.join("new"));
            move || {
                fs::write(&new, "second").unwrap();
                fs::rename(&new, &policy).unwrap();
            }
        });
        let _ = inside(sandbox, move || {
            replaced.join().unwrap();
            assert_eq!(fs::read_to_string(&policy).unwrap(), "second");
            assert_eq!(kind(fs::write(&policy, "mine")), DENIED);
            let new = token.with_extension("new");
            fs::write(&new, "token").unwrap();
            fs::rename(&new, &token).unwrap();
            assert_eq!(fs::read_to_string(&token).unwrap(), "token");
            fs::remove_file(&token).unwrap();
            for path in [
                "/etc/shadow",
                "/root/.ssh/id_ed25519",
                other.to_str().unwrap(),
            ] {
                let read = kind(File::open(path));
                assert!(
                    read == DENIED || read == Some(ErrorKind::NotFound),
                    "{path}: {read:?}"
                );
            }
            assert_eq!(kind(fs::read(&other)), DENIED);
            assert_eq!(kind(fs::write(other.with_extension("new"), "x")), DENIED);
            assert_eq!(kind(fs::read_dir("/")), DENIED);
            let ran = std::process::Command::new("/bin/true").status();
            assert_eq!(kind(ran), DENIED);
        });
    }

    #[test]
    fn ports_that_no_flag_names_can_neither_be_connected_to_nor_listened_on() {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (upstream, other, held) = (listener(), listener(), TcpSocket::new_v4().unwrap());
        // While this socket is bound, nobody else gets the port.
        held.set_reuseaddr(true).unwrap();
        held.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (named, unnamed) = (port(&upstream), port(&other));
        let own = held.local_addr().unwrap().port();
        let authority = format!("127.0.0.1:{named}").parse().unwrap();
        let url = UpstreamUrl::host(Protocol::Https, authority);
        let address = format!("127.0.0.1:{own}").parse().unwrap();
        let sandbox = Sandbox::of(&api()).connects(&url).listens(&address);
        let _ = inside(sandbox, move || {
            let connect = |port| kind(TcpStream::connect(("127.0.0.1", port)));
            let bind = |port| kind(TcpListener::bind(("127.0.0.1", port)));
            assert_eq!(connect(named), None);
            assert_eq!(connect(unnamed), DENIED);
            assert_eq!(connect(22), DENIED);
            assert_eq!(bind(own), None);
            assert_eq!(bind(0), DENIED);
        });
    }

    #[test]
    fn socket_of_a_flag_can_be_made_and_names_can_be_looked_up() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("a.sock");
        let url = UpstreamUrl::host(Protocol::Https, "localhost:1".parse().unwrap());
        let address = format!("unix:{}", socket.display()).parse().unwrap();
        let sandbox = Sandbox::of(&api()).connects(&url).listens(&address);
        let _ = inside(sandbox, move || {
            assert_eq!(kind(UnixListener::bind(&socket)), None);
            fs::remove_file(&socket).unwrap();
            let found = std::net::ToSocketAddrs::to_socket_addrs("localhost:1").unwrap();
            assert!(found.count() > 0);
        });
    }

    #[test]
    fn program_itself_can_be_read_for_a_backtrace() {
        let program = std::env::current_exe().unwrap();
        let _ = inside(Sandbox::of(&api()), move || {
            assert_eq!(kind(File::open(&program)), None);
            assert_eq!(kind(File::open("/proc/self/maps")), None);
        });
    }

    #[test]
    fn other_processes_get_signals_only_if_a_flag_says_so() {
        for (sandbox, expected) in [
            (Sandbox::of(&api()), Err(Errno::EPERM)),
            (Sandbox::of(&api()).signals(), Ok(())),
        ] {
            let parent: Pid = getppid();
            let sent = inside(sandbox, move || kill(parent, None));
            assert!(sent.is_none_or(|sent| sent == expected), "{sent:?}");
        }
    }

    #[test]
    fn line_says_which_restrictions_are_in_force() {
        let available = |effective_abi| LandlockStatus::Available {
            effective_abi,
            kernel_abi: None,
        };
        for (status, landlock, text) in [
            (
                RulesetStatus::FullyEnforced,
                available(ABI::V7),
                "signals are restricted (Landlock ABI 7)",
            ),
            (
                RulesetStatus::PartiallyEnforced,
                available(ABI::V4),
                "files and TCP ports, and neither",
            ),
            (
                RulesetStatus::PartiallyEnforced,
                available(ABI::V2),
                "files, and no TCP ports, and neither",
            ),
            (
                RulesetStatus::NotEnforced,
                LandlockStatus::NotEnabled,
                "no sandbox: ",
            ),
        ] {
            let enforced = Enforced {
                status,
                landlock,
                binds_any: false,
            };
            assert!(enforced.to_string().contains(text), "{enforced}");
        }
    }
}
