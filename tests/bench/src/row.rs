//! Defines the rows of the table, each of which is a load and its figures.

use clap::ValueEnum;

use crate::contender::Contender;

/// A load.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Row {
    /// wrk, 32 kept-alive HTTP/1.1 connections.
    #[value(name = "wrk32")]
    Wrk32,
    /// wrk, 512 kept-alive HTTP/1.1 connections.
    #[value(name = "wrk512")]
    Wrk512,
    /// h2load, 4 connections of 64 streams.
    #[value(name = "h2")]
    Http2,
    /// A new TLS connection for each request.
    Handshake,
    /// A new TLS connection for each request, by callers that resume sessions if the stack offers
    /// that.
    Resumed,
    /// Another token for each request.
    NewTokens,
    /// wrk, 32 kept-alive HTTP/1.1 connections, POST with a body of 5 bytes.
    #[value(name = "post-5b")]
    Post5B,
    /// wrk, 32 kept-alive HTTP/1.1 connections, POST with a body of 1 KiB.
    #[value(name = "post-1k")]
    Post1K,
    /// wrk, 32 kept-alive HTTP/1.1 connections, POST with a body of 64 KiB.
    #[value(name = "post-64k")]
    Post64K,
    /// Bodies of 64 MiB through the proxy.
    Bodies,
    /// Bodies of 32 MiB with a round trip of 50 ms before or after the proxy.
    Far,
    /// wrk, 32 kept-alive HTTP/1.1 connections without TLS to a client that listens, and an application
    /// behind the server.
    Chain,
    /// h2load, 4 connections of 64 streams, unary gRPC calls of an application behind the server.
    Grpc,
    /// 5,000 idle WebSockets through client, proxy and server.
    #[value(name = "websockets")]
    WebSockets,
    /// wrk, 32 kept-alive HTTP/1.1 connections, with and without a scrape of the metrics each second.
    Scrape,
    /// 10,000 idle connections.
    Idle,
    /// The time from exec to the first accepted connection.
    Start,
    /// The project alone, with growing numbers of connections, keys, patterns or callers.
    Growth,
}

impl Row {
    /// Returns the name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Wrk32 => "32 kept-alive HTTP/1.1 connections",
            Self::Wrk512 => "512 kept-alive HTTP/1.1 connections",
            Self::Http2 => "HTTP/2, 4 connections of 64 streams",
            Self::Handshake => "a new TLS connection per request",
            Self::Resumed => "a new TLS connection per request, resumed where offered",
            Self::NewTokens => "a new token per request, 32 connections",
            Self::Post5B => "POST with 5 bytes, 32 kept-alive HTTP/1.1 connections",
            Self::Post1K => "POST with 1 KiB, 32 kept-alive HTTP/1.1 connections",
            Self::Post64K => "POST with 64 KiB, 32 kept-alive HTTP/1.1 connections",
            Self::Bodies => "64 MiB bodies through the proxy",
            Self::Far => "32 MiB bodies at 50 ms of round trip",
            Self::Chain => "client, proxy and server before an application",
            Self::Grpc => "unary gRPC calls, 4 connections of 64 streams",
            Self::WebSockets => "5,000 idle WebSockets through client, proxy and server",
            Self::Scrape => "32 kept-alive HTTP/1.1 connections, metrics scraped",
            Self::Idle => "10,000 idle connections",
            Self::Start => "from exec to accepting",
            Self::Growth => "CPU per request as work grows",
        }
    }

    /// Returns the name for machines and flags.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Wrk32 => "wrk32",
            Self::Wrk512 => "wrk512",
            Self::Http2 => "h2",
            Self::Handshake => "handshake",
            Self::Resumed => "resumed",
            Self::NewTokens => "new-tokens",
            Self::Post5B => "post-5b",
            Self::Post1K => "post-1k",
            Self::Post64K => "post-64k",
            Self::Bodies => "bodies",
            Self::Far => "far",
            Self::Chain => "chain",
            Self::Grpc => "grpc",
            Self::WebSockets => "websockets",
            Self::Scrape => "scrape",
            Self::Idle => "idle",
            Self::Start => "start",
            Self::Growth => "growth",
        }
    }

    /// Returns the size of each request's body in the POST rows.
    pub(crate) fn post_size(self) -> Option<usize> {
        match self {
            Self::Post5B => Some(5),
            Self::Post1K => Some(1 << 10),
            Self::Post64K => Some(64 << 10),
            _ => None,
        }
    }

    /// Returns whether a stack is measured under this load. Envoy without its cache is measured
    /// only where the cache would help. The project without a profile is measured only where its
    /// code decides the result. The last rows measure promises of the project.
    pub(crate) fn includes(self, contender: Contender) -> bool {
        match self {
            Self::Wrk32 => true,
            Self::Bodies | Self::Far => {
                matches!(contender, Contender::Project | Contender::Floor)
            }
            Self::Chain | Self::Grpc | Self::WebSockets | Self::Scrape => {
                matches!(
                    contender,
                    Contender::Project | Contender::Plain | Contender::Static
                )
            }
            Self::Growth => contender == Contender::Project,
            _ if contender == Contender::EnvoyUncached => false,
            Self::Wrk512 | Self::Http2 | Self::Post5B | Self::Post1K | Self::Post64K => true,
            // Envoy is one process for both hops.
            Self::Start => !matches!(contender, Contender::Envoy | Contender::Plain),
            _ => contender != Contender::Plain,
        }
    }

    /// Returns how many of `rounds` the row needs.
    pub(crate) fn rounds(self, rounds: usize) -> usize {
        match self {
            Self::Idle | Self::WebSockets => 1,
            _ => rounds,
        }
    }
}
