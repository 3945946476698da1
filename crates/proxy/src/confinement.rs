//! The ports that a proxy's flags name.

use process::{
    listen::ListenAddress,
    sandbox::{Confined, Confinement, Sandbox},
};

use crate::config::Config;

impl Confined for Config {
    fn confinement(&self) -> Confinement {
        if self.doctor.doctor {
            return Confinement::None;
        }
        let sandbox = Sandbox::of(self.identity.address());
        let sandbox = sandbox.listens(&ListenAddress::from(self.listen));
        let urls = self.upstream.urls().iter();
        let sandbox = urls.fold(sandbox, |sandbox, url| sandbox.connects(url));
        self.serve.confinement(sandbox)
    }
}
