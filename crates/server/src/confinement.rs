//! The files and ports that a server's flags name.

use process::{
    listen::ListenAddress,
    sandbox::{Confined, Confinement, Sandbox},
};

use crate::config::Config;

impl Confined for Config {
    fn confinement(&self) -> Confinement {
        if self.policy.is_question() || self.doctor.doctor {
            return Confinement::None;
        }
        let mut sandbox = Sandbox::of(self.identity.address());
        sandbox = match &self.ext_authz.ext_authz {
            Some(address) => sandbox.listens(address),
            None => sandbox.listens(&ListenAddress::from(self.listen)),
        };
        if let Some(policy) = self.policy.path() {
            sandbox = sandbox.reads(policy);
        }
        for url in self.application.urls() {
            sandbox = sandbox.connects(url);
        }
        self.serve.confinement(sandbox)
    }
}
