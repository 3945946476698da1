//! The files and ports that the flags of a client name.

use process::sandbox::{Confined, Confinement, Sandbox};

use crate::{config::Config, peer::PeerIdentity, route::Route};

impl Confined for Config {
    /// Returns the use of a sandbox by a client that serves applications. A client that makes requests of its
    /// own has none, and neither has a diagnosis.
    fn confinement(&self) -> Confinement {
        if self.doctor.doctor {
            return Confinement::None;
        }
        let serve = &self.listening.serve;
        let sandbox = Sandbox::of(self.identity.address());
        if let Some(address) = &self.listening.listen {
            // Flags that contradict each other end the process later.
            let routes = self.routes().unwrap_or_default();
            let sandbox = routes.iter().fold(sandbox.listens(address), with_route);
            return serve.confinement(sandbox);
        }
        let Some(file) = &self.token_file.token_file else {
            return Confinement::None;
        };
        if self.token_file.runs_a_program() {
            return Confinement::Impossible(
                serve.sandbox(),
                "the program of --token-command may need any file or port",
            );
        }
        let sandbox = sandbox.keeps(file);
        serve.confinement(match self.token_file.pid_file() {
            Some(pid_file) => sandbox.reads(pid_file).signals(),
            None => sandbox,
        })
    }
}

fn with_route(sandbox: Sandbox, route: &Route) -> Sandbox {
    let sandbox = sandbox.connects(&route.url);
    match &route.peer {
        PeerIdentity::SpiffeId(_) => sandbox,
        PeerIdentity::Name { ca: Some(ca), .. } => sandbox.reads(&ca.path),
        PeerIdentity::Name { ca: None, .. } => sandbox.reads_system_cas(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use process::sandbox::SandboxMode;

    use super::*;

    fn confinement(args: &[&str]) -> Confinement {
        let args = [&["client"], args].concat();
        Config::try_parse_from(args).unwrap().confinement()
    }

    #[test]
    fn client_that_makes_requests_of_its_own_has_no_sandbox() {
        for args in [
            &[] as &[&str],
            &["--every", "1s"],
            &["--print-token"],
            &["--doctor", "--listen", "127.0.0.1:1"],
            &["--doctor", "--token-file", "/run/app/token"],
        ] {
            assert!(matches!(confinement(args), Confinement::None), "{args:?}");
        }
        for args in [
            &["--listen", "127.0.0.1:1"] as &[&str],
            &["--token-file", "/run/app/token"],
        ] {
            let found = confinement(args);
            assert!(
                matches!(found, Confinement::Rules(SandboxMode::On, _)),
                "{args:?}"
            );
        }
    }

    #[test]
    fn program_after_a_token_is_not_restricted() {
        let args = ["--token-file", "/run/app/token", "--token-command", "true"];
        let args = [&args as &[&str], &["--sandbox", "required"]].concat();
        let found = confinement(&args);
        assert!(
            matches!(found, Confinement::Impossible(SandboxMode::Required, _)),
            "{found:?}"
        );
    }
}
