//! An upgraded connection, as a body in each direction.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::body::BoxError;

/// The most bytes that are read at once. They are on the stack until some have come, so that a silent
/// connection needs no memory for them.
const STEP: usize = 16 * 1024;

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

/// Polls for the next bytes of a connection. They are `None` at its end.
///
/// # Errors
/// Fails when the connection breaks.
pub fn poll_read<I>(io: Pin<&mut I>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>
where
    I: AsyncRead,
{
    let mut space = [MaybeUninit::uninit(); STEP];
    let mut read = ReadBuf::uninit(&mut space);
    ready!(io.poll_read(cx, &mut read))?;
    let bytes = read.filled();
    let bytes = (!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes));
    Poll::Ready(Ok(bytes))
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
