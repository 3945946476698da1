//! Bodies and what was asked for go to standard output; everything else to standard error.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use forward::outbound::ResponseBody;
use http::{HeaderMap, Response, StatusCode, Version, header::LOCATION};
use http_body_util::BodyExt;
use spiffe::{JwtSvid, TrustDomain, X509BundleSet};

/// Prints a response: the body of a success as it comes, otherwise the status. With `include`, the
/// head before the body whatever the status, as curl's `-i`.
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

/// Prints the certificates that vouch for `trust_domain`, as PEM (RFC 7468).
pub(crate) fn bundle(
    bundles: &X509BundleSet,
    trust_domain: &TrustDomain,
) -> anyhow::Result<ExitCode> {
    let bundle = bundles
        .get(trust_domain)
        .with_context(|| format!("no bundle for trust domain {trust_domain}"))?;
    for authority in bundle.authorities() {
        print(pem(authority.as_bytes()).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line, in a thread of its own: whoever reads may be slow, and what runs here goes on.
///
/// # Errors
/// When standard output takes no more; `BrokenPipe` if nobody reads it any more.
pub(crate) async fn line(mut text: String) -> io::Result<()> {
    text.push('\n');
    tokio::task::spawn_blocking(move || write(text.as_bytes())).await?
}

/// As it comes; on a terminal the next prompt gets a line of its own.
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

fn head_text(version: Version, status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut text = format!("{version:?} {status}\r\n").into_bytes();
    for (name, value) in headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    text
}

fn pem(der: &[u8]) -> String {
    let base64 = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = (0..base64.len())
        .step_by(64)
        .map(|at| &base64[at..base64.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64() {
        let text = pem(&[0; 60]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines.iter().map(|line| line.len()).collect::<Vec<_>>(),
            [27, 64, 16, 25]
        );
    }

    #[test]
    fn a_head_reads_as_on_the_wire() {
        let headers = HeaderMap::from_iter([(LOCATION, "/a".parse().unwrap())]);
        let text = head_text(Version::HTTP_2, StatusCode::FOUND, &headers);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "HTTP/2.0 302 Found\r\nlocation: /a\r\n\r\n"
        );
    }
}
