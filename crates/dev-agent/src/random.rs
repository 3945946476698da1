//! Random bytes from the cryptographic library.

use aws_lc_rs::rand;

use crate::error::Error;

pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Error::Crypto {
        what: "get random bytes",
    })?;
    Ok(bytes)
}
