//! `--doctor`: tries each step of the client's requests, from the Workload API to the server's answer.
//!
//! - `answer`: the request, and what its answer says about the proxy and the server

mod answer;

use std::process::ExitCode;

use common::workload::{Reason, WorkloadApi, X509Source};
use forward::outbound::{Security, Upstream};
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use process::{
    cli,
    doctor::{Doctor, Kind, STEP, Trouble, listening, upstream::UpstreamSteps, words, workload},
    listen::Inherited,
};
use spiffe::{JwtSvid, SpiffeId};

use self::answer::Asked;
use crate::{
    config::Config,
    listening::{checked, config::ListenArgs},
    peer::PeerIdentity,
    route::Route,
    token_file::{self, config::TokenFileArgs},
};

/// A route to try, with everything that its requests need.
struct Path {
    route: Route,
    upstream: Upstream,
    request: Request<Full<Bytes>>,
    /// Set if the status of the answer is that of the run.
    is_run: bool,
}

/// The results of the Workload API's steps, which all routes use.
struct Issued {
    api: WorkloadApi,
    /// The step that is missing for a token, if there is one.
    obstacle: Option<&'static str>,
    bundles: Result<X509Source, &'static str>,
}

/// Tries each step that the flags need, and prints a verdict for each.
///
/// # Errors
/// Fails when the verdicts can't be printed.
pub(crate) async fn run(config: &Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let paths = match paths(config) {
        Ok(paths) => paths,
        Err(Fault::Usage(error)) => return cli::usage_error::<Config>(&error),
        Err(Fault::Other(error)) => return Err(error),
    };
    let mut doctor = Doctor::new("client", &config.doctor);
    let routes = paths.iter().map(|path| &path.route);
    let issued = workload(&mut doctor, config, routes).await;
    token_file(&mut doctor, &config.token_file);
    listening(&mut doctor, &config.listening, inherited);
    if paths.is_empty() {
        token(&mut doctor, &issued, &config.audiences()).await;
    }
    for path in &paths {
        doctor.set_route(path.route.host.clone());
        walk(&mut doctor, &issued, path).await;
    }
    doctor.finish()
}

/// The reason why there is nothing to try.
enum Fault {
    Usage(String),
    Other(anyhow::Error),
}

/// Returns what the flags request: a request to `--url`, the routes of `--listen`, or nothing.
fn paths(config: &Config) -> Result<Vec<Path>, Fault> {
    if config.listening.listen.is_some() {
        let (_, routes) = checked(config).map_err(Fault::Usage)?;
        let path = |(route, upstream)| Path::listening(route, upstream);
        return Ok(routes.into_iter().map(path).collect());
    }
    config.check_audience().map_err(Fault::Usage)?;
    if config.token_file.token_file.is_some() {
        return Ok(Vec::new());
    }
    let mut upstream = config.upstream();
    upstream.timeouts.connect = config.max_time.min(STEP);
    let [url] = upstream.urls.as_slice() else {
        return Ok(Vec::new());
    };
    let route = Route {
        host: None,
        url: url.clone(),
        audiences: config.audiences(),
        peer: config.peer(),
    };
    Ok(vec![Path {
        route,
        upstream,
        request: config.read_request().map_err(Fault::Other)?,
        is_run: true,
    }])
}

impl Path {
    /// Returns the path of a route for applications. Its request is `GET /` to the route's host.
    fn listening(route: Route, upstream: Upstream) -> Self {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = Uri::from_static("/");
        let host = route.host.as_deref();
        if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok()) {
            request.headers_mut().insert(header::HOST, host);
        }
        Self {
            route,
            upstream,
            request,
            is_run: false,
        }
    }
}

/// Tries the steps of the Workload API.
async fn workload<'a>(
    doctor: &mut Doctor,
    config: &Config,
    routes: impl Iterator<Item = &'a Route>,
) -> Issued {
    let api = workload::once(&config.identity, config.max_time);
    let peers: Vec<_> = routes.filter_map(|route| route.peer.spiffe_id()).collect();
    let begun = workload::begin(doctor, &api, &config.identity).await;
    let obstacle = begun.err();
    if let Some(needs) = obstacle {
        doctor.not_tried("svid", Kind::Identity, needs);
        doctor.not_tried("x509-bundles", Kind::Bundles, needs);
        doctor.not_tried("jwt-bundles", Kind::Bundles, needs);
        return Issued {
            api,
            obstacle,
            bundles: Err(needs),
        };
    }
    workload::svid(doctor, &api, false).await;
    let bundles = bundles(doctor, &api, &peers).await;
    workload::jwt_bundles(doctor, &api, [], false).await;
    Issued {
        api,
        obstacle,
        bundles,
    }
}

/// Tries FetchX509Bundles, as a run that verifies SPIFFE IDs does.
async fn bundles(
    doctor: &mut Doctor,
    api: &WorkloadApi,
    peers: &[&SpiffeId],
) -> Result<X509Source, &'static str> {
    match api.x509_bundles().await {
        Ok(identity) => {
            let domains = peers.iter().map(|id| id.trust_domain());
            workload::x509_bundles(doctor, &identity.x509, domains);
            Ok(identity.x509)
        }
        Err(error) => {
            let trouble = workload::call_trouble("FetchX509Bundles", &error);
            if peers.is_empty() {
                doctor.warning("x509-bundles", Kind::Bundles, trouble)
            } else {
                doctor.failed("x509-bundles", Kind::Bundles, trouble)
            }
            Err("X.509 bundles")
        }
    }
}

/// Tries to claim the address that applications connect to.
fn listening(doctor: &mut Doctor, args: &ListenArgs, inherited: Inherited) {
    if let (Some(_), Ok(flag)) = (&args.listen, args.address()) {
        listening::address(doctor, &args.serve, inherited, flag);
        let files = args
            .upstream
            .open_files(args.routes.len().max(1), args.serve.cores());
        listening::open_files(doctor, &args.serve, &[files]);
    }
}

/// Tries to keep a token in the file that the flags name.
fn token_file(doctor: &mut Doctor, args: &TokenFileArgs) {
    let Some(path) = &args.token_file else {
        return;
    };
    match token_file::check(args, path) {
        Ok(()) => doctor.ok(
            "token-file",
            Kind::File,
            format!("{} can be kept", path.display()),
        ),
        Err(error) => {
            let remedy = "make the directory, and let this user alone write to it";
            let trouble = Trouble::new(path.display().to_string(), format!("{error:#}"), remedy);
            doctor.failed("token-file", Kind::File, trouble);
        }
    }
}

/// Tries FetchJWTSVID for these audiences.
async fn token(doctor: &mut Doctor, issued: &Issued, audiences: &[String]) -> Option<JwtSvid> {
    if let Some(needs) = issued.obstacle {
        doctor.not_tried("token", Kind::Token, needs);
        return None;
    }
    let shown = words::list(audiences);
    match issued.api.fetch_jwt_svid(audiences, None).await {
        Ok(token) => {
            let until = words::time(token.expiry().into(), std::time::SystemTime::now());
            let text = format!(
                "JWT-SVID of {} for {shown}, until {until}",
                token.spiffe_id()
            );
            match audiences.len() {
                1 => doctor.ok("token", Kind::Token, text),
                _ => doctor.warning("token", Kind::Token, shared(text)),
            }
            Some(token)
        }
        Err(error) => {
            let remedy = match error.reason() {
                Reason::InvalidRequest(_) => "change AUDIENCE or --spiffe-id",
                Reason::WrongToken => {
                    "compare the clocks of this machine and of the agent's server"
                }
                _ => "look at the agent's log: it issues X.509-SVIDs and no JWT-SVID",
            };
            let trouble = Trouble::new(format!("JWT-SVID for {shown}"), error.reason(), remedy);
            doctor.failed("token", Kind::Token, trouble);
            None
        }
    }
}

/// Returns the trouble of a token for several audiences.
fn shared(text: String) -> Trouble {
    let cause =
        "each of the audiences can send the token to the others as this workload, until it expires";
    Trouble::new(text, cause, "fetch a token for each audience")
}

/// Tries the steps of one route.
async fn walk(doctor: &mut Doctor, issued: &Issued, path: &Path) {
    let Path {
        route, upstream, ..
    } = path;
    let token = token(doctor, issued, &route.audiences).await;
    let security = security(doctor, issued, route);
    let steps = UpstreamSteps {
        url: &route.url,
        expected: route.peer.spiffe_id(),
        flags: flags(route),
        timeout: upstream.timeouts.connect,
    };
    let is_verified = steps.walk(doctor, security.clone()).await;
    match (token, security) {
        (Some(token), Ok(security)) if is_verified => {
            let asked = Asked {
                token: &token,
                request: &path.request,
                is_run: path.is_run,
                server: route.peer.spiffe_id(),
            };
            asked.walk(doctor, upstream.clone(), security).await;
        }
        (None, _) => doctor.not_tried("answer", Kind::Answer, "a token"),
        (Some(_), _) => doctor.not_tried("answer", Kind::Answer, "a verified peer"),
    }
}

/// Returns the flags that name the URL of a route and its peer.
fn flags(route: &Route) -> [&'static str; 2] {
    match (&route.host, &route.peer) {
        (Some(_), _) => ["--route", "--route"],
        (None, PeerIdentity::SpiffeId(_)) => ["--url", "--server-id"],
        (None, PeerIdentity::Name { .. }) => ["--url", "--server-name"],
    }
}

/// Returns the security of connections to the peer of a route, or the name of what is missing for it. Records a
/// file of `--ca` that can't be used.
fn security(doctor: &mut Doctor, issued: &Issued, route: &Route) -> Result<Security, &'static str> {
    let bundles = match (&route.peer, &issued.bundles) {
        (PeerIdentity::SpiffeId(_), Ok(bundles)) => Some(bundles),
        (PeerIdentity::SpiffeId(_), Err(needs)) => return Err(needs),
        (PeerIdentity::Name { .. }, _) => None,
    };
    route.peer.security(bundles).map_err(|error| {
        let remedy = "name a file with the certificates of the CA that signed the peer's";
        let trouble = Trouble::new("CA certificates", format!("{error:#}"), remedy);
        doctor.failed("ca", Kind::File, trouble);
        "CA certificates"
    })
}
