//! An upgraded connection, as a body in each direction.

use std::io;

use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::body::BoxError;
pub use crate::upgraded::poll_read;

/// The reason why a direction of a tunnel broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source of the bytes failed.
    #[error("{0}")]
    Source(#[source] BoxError),
    /// The connection that takes them failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Writes a body to a connection as it comes. Then closes the sending side of the connection.
///
/// # Errors
/// Fails when the body or the connection breaks.
pub async fn write<B, I>(mut body: B, io: &mut I) -> Result<(), Error>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    I: AsyncWrite + Unpin,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Source(error.into()))?;
        // Trailers have no place in a tunnel.
        if let Ok(data) = frame.into_data() {
            io.write_all(&data).await?;
            io.flush().await?;
        }
    }
    io.shutdown().await?;
    Ok(())
}
