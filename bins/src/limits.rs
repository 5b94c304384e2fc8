//! The number of descriptors that this process may open: each visitor needs two.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard one and logs the outcome. A failure is only
/// logged: the programs work with fewer.
pub fn raise_descriptor_limit() {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!("cannot read the limit of open descriptors: {error}"),
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => tracing::debug!(before = soft, now = hard, "limit of open descriptors"),
        Err(error) => tracing::warn!("cannot raise the limit of open descriptors from {soft} to {hard}: {error}"),
    }
}
