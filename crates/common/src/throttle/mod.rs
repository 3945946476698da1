//! Log lines that a peer could make many of: told when they begin and end ([`Episode`]), or limited per
//! second and per source ([`LogQuota`]).

mod episode;
mod quota;

pub use self::{
    episode::Episode,
    quota::{LogQuota, LogQuotas},
};
