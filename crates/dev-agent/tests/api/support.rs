//! An agent on its own socket, and a client of generated stubs.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::Deref,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use dev_agent::{
    BundleEndpoint, Config, DevAgent, WebCertificate, pb,
    pb::spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use nix::unistd::{Uid, User};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// More time than any answer takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// The time after which a test takes a stream for silent.
const SILENCE: Duration = Duration::from_millis(150);

/// Reports why a test is skipped. The line goes to standard error itself, because the test runner
/// hides `println!` of passing tests, and `scripts/test.sh` counts these lines.
pub(crate) fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Copies a program that is to be run, by any user.
///
/// Another process makes the copy. A child that another thread starts meanwhile would otherwise
/// hold the copy open for writing, and then the kernel refuses to run it.
pub(crate) fn install(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "cannot copy {}", from.display());
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Returns another user to run programs as. Returns `None`, and reports it, if that is not
/// possible.
pub(crate) fn another_user() -> Option<User> {
    let user = User::from_name("daemon")
        .unwrap()
        .filter(|_| Uid::effective().is_root());
    if user.is_none() {
        skip("running as another user needs root and the user 'daemon'");
    }
    user
}

/// An address of this machine with a port that the kernel chooses.
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Returns a certificate for `localhost` and 127.0.0.1 of a CA of its own, that CA in PEM, and the
/// files of the certificate and its key.
pub(crate) fn web_certificate() -> (WebCertificate, String, [String; 2]) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // Verifiers build paths by name, so that each CA has its own.
    let name = STANDARD.encode(ca_key.public_key_raw());
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, &name[..60]);
    let root = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let files = [
        pem("CERTIFICATE", leaf.der()),
        pem("PRIVATE KEY", key.serialized_der()),
    ];
    let certificate = WebCertificate::from_pem(files[0].as_bytes(), files[1].as_bytes());
    (certificate.unwrap(), pem("CERTIFICATE", root.der()), files)
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

/// An agent in its own directory.
pub(crate) struct TestAgent {
    agent: DevAgent,
    // The directory is dropped after the agent, which removes its socket from it.
    _directory: TempDir,
}

impl TestAgent {
    /// Starts an agent. `{uid}` in an entry stands for the user of the tests.
    pub(crate) async fn start(entries: &[&str]) -> Self {
        Self::start_with(entries, |_| {}).await
    }

    pub(crate) async fn start_with(entries: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let uid = Uid::effective().to_string();
        let entries = entries
            .iter()
            .map(|entry| entry.replace("{uid}", &uid).parse().unwrap())
            .collect();
        let mut config = Config::new(directory.path().join("agent.sock"), entries);
        change(&mut config);
        Self {
            agent: DevAgent::start(config).await.unwrap(),
            _directory: directory,
        }
    }

    /// Starts the agent of `b.test`, which serves its bundle. `change` may change its endpoint.
    pub(crate) async fn with_endpoint(change: impl FnOnce(&mut BundleEndpoint)) -> Self {
        Self::start_with(&["spiffe://b.test/y=unix:uid:{uid}"], |config| {
            let mut endpoint = BundleEndpoint::new(ANY_PORT);
            change(&mut endpoint);
            config.bundle_endpoint = Some(endpoint);
        })
        .await
    }

    /// Returns the URL of the bundle endpoint.
    pub(crate) fn url(&self) -> String {
        format!("https://{}/", self.bundle_endpoint().unwrap())
    }

    /// Opens a new connection.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.endpoint()).await
    }

    pub(crate) async fn x509_stream(&self) -> Stream<pb::X509svidResponse> {
        let mut client = self.connect().await;
        let request = with_header(pb::X509svidRequest {});
        Stream(client.fetch_x509svid(request).await.unwrap().into_inner())
    }

    pub(crate) async fn x509_bundle_stream(&self) -> Stream<pb::X509BundlesResponse> {
        let mut client = self.connect().await;
        let request = with_header(pb::X509BundlesRequest {});
        Stream(
            client
                .fetch_x509_bundles(request)
                .await
                .unwrap()
                .into_inner(),
        )
    }

    pub(crate) async fn jwt_bundle_stream(&self) -> Stream<pb::JwtBundlesResponse> {
        let mut client = self.connect().await;
        let request = with_header(pb::JwtBundlesRequest {});
        Stream(
            client
                .fetch_jwt_bundles(request)
                .await
                .unwrap()
                .into_inner(),
        )
    }

    pub(crate) async fn fetch_jwt(
        &self,
        audience: &[&str],
        spiffe_id: &str,
    ) -> Result<Vec<pb::Jwtsvid>, Status> {
        let request = pb::JwtsvidRequest {
            audience: audience.iter().map(ToString::to_string).collect(),
            spiffe_id: spiffe_id.to_owned(),
        };
        let mut client = self.connect().await;
        let response = client.fetch_jwtsvid(with_header(request)).await?;
        Ok(response.into_inner().svids)
    }

    pub(crate) async fn validate(
        &self,
        audience: &str,
        svid: &str,
    ) -> Result<pb::ValidateJwtsvidResponse, Status> {
        let request = pb::ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: svid.to_owned(),
        };
        let mut client = self.connect().await;
        let response = client.validate_jwtsvid(with_header(request)).await?;
        Ok(response.into_inner())
    }
}

impl Deref for TestAgent {
    type Target = DevAgent;

    fn deref(&self) -> &DevAgent {
        &self.agent
    }
}

/// A stream whose next message has to come soon.
pub(crate) struct Stream<M>(Streaming<M>);

impl<M> Stream<M> {
    pub(crate) async fn next(&mut self) -> M {
        self.message().await.unwrap().expect("the stream has ended")
    }

    /// Reads messages until one is as wanted.
    pub(crate) async fn wait_for(&mut self, wanted: impl Fn(&M) -> bool) -> M {
        loop {
            let message = self.next().await;
            if wanted(&message) {
                return message;
            }
        }
    }

    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match self.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    }

    pub(crate) async fn is_silent(&mut self) -> bool {
        timeout(SILENCE, self.0.message()).await.is_err()
    }

    async fn message(&mut self) -> Result<Option<M>, Status> {
        soon(self.0.message()).await
    }
}

pub(crate) type Client = SpiffeWorkloadApiClient<Channel>;

pub(crate) async fn connect(endpoint: &str) -> Client {
    let endpoint = Endpoint::try_from(endpoint.to_owned()).unwrap();
    SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap())
}

pub(crate) fn with_header<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    let value = "true".parse().unwrap();
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("nothing happened")
}

/// Waits until `is_so` returns true. The harness has the same, but it depends on dev-agent.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) {
    soon(async {
        while !is_so().await {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub(crate) async fn is_pending(future: impl Future) -> bool {
    timeout(SILENCE, future).await.is_err()
}

#[track_caller]
pub(crate) fn assert_status(status: &Status, code: Code, message: &str) {
    assert_eq!((status.code(), status.message()), (code, message));
}
