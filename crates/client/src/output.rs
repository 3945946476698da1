//! The output. Bodies, lines and tokens go to standard output, everything else to standard error.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use common::certificate::pem;
use forward::outbound::ResponseBody;
use http::{HeaderMap, Response, StatusCode, Version, header::LOCATION};
use http_body_util::BodyExt;
use spiffe::{JwtSvid, TrustDomain, X509BundleSet};

/// Prints a response: the body of a success while it arrives, otherwise the status. With `include`,
/// prints head and body whatever the status, like curl's `-i`.
pub(crate) async fn response(
    response: Response<ResponseBody>,
    include: bool,
) -> anyhow::Result<ExitCode> {
    let (head, body) = response.into_parts();
    let success = head.status.is_success();
    if include {
        print(&head_text(head.version, head.status, &head.headers))?;
    }
    if include || success {
        print_body(body).await?;
    }
    if success {
        return Ok(ExitCode::SUCCESS);
    }
    let location = head
        .headers
        .get(LOCATION)
        .filter(|_| head.status.is_redirection());
    match location {
        Some(location) => eprintln!(
            "{} to {} (not followed)",
            head.status,
            location.as_bytes().escape_ascii()
        ),
        None => eprintln!("{}", head.status),
    }
    Ok(ExitCode::FAILURE)
}

/// Prints the token alone, for use by another tool.
pub(crate) fn token(svid: &JwtSvid) -> anyhow::Result<ExitCode> {
    print(format!("{}\n", svid.token()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the X.509 authorities of `trust_domain` as PEM (RFC 7468).
pub(crate) fn bundle(
    bundles: &X509BundleSet,
    trust_domain: &TrustDomain,
) -> anyhow::Result<ExitCode> {
    let bundle = bundles
        .get(trust_domain)
        .with_context(|| format!("no X.509 bundle for trust domain {trust_domain}"))?;
    for authority in bundle.authorities() {
        print(pem("CERTIFICATE", authority.as_bytes()).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line on another thread, because a slow reader must not stop the other tasks.
///
/// # Errors
/// Fails when standard output can't be written, with `BrokenPipe` if its reader has closed it.
pub(crate) async fn line(mut text: String) -> io::Result<()> {
    text.push('\n');
    tokio::task::spawn_blocking(move || write(text.as_bytes())).await?
}

/// Prints a body while it arrives. Ends the last line on a terminal, so that the prompt has its own
/// line.
async fn print_body(mut body: ResponseBody) -> anyhow::Result<()> {
    let mut line_ended = true;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the response broke off")?.into_data() {
            print(&data)?;
            line_ended = data.last().map_or(line_ended, |&byte| byte == b'\n');
        }
    }
    if !line_ended && io::stdout().is_terminal() {
        print(b"\n")?;
    }
    Ok(())
}

fn print(bytes: &[u8]) -> anyhow::Result<()> {
    write(bytes).context("cannot write to standard output")
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Returns the head in the form of HTTP/1.1.
fn head_text(version: Version, status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut text = format!("{version:?} {status}\r\n").into_bytes();
    for (name, value) in headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_printed_in_the_form_of_http1() {
        let headers = HeaderMap::from_iter([(LOCATION, "/a".parse().unwrap())]);
        let text = head_text(Version::HTTP_2, StatusCode::FOUND, &headers);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "HTTP/2.0 302 Found\r\nlocation: /a\r\n\r\n"
        );
    }
}
