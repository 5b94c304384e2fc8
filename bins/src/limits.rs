//! What this process may do: the number of descriptors that it may open (each visitor needs two), and no privileges
//! beyond those that it was started with; and what others may see of it.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol_sm::budget::Budget;
use protocol_sm::settings::ServerSettings;

/// Raises the soft limit of open descriptors to the hard one, logs the outcome, and returns the limit, if it is known. A
/// failure is only logged: the programs work with fewer.
pub fn raise_descriptor_limit() -> Option<u64> {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(event = "descriptor_limit_unknown", "cannot read the limit of open descriptors: {error}");
            return None;
        }
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => {
            tracing::debug!(event = "descriptor_limit", before = soft, now = hard, "limit of open descriptors");
            Some(hard)
        }
        Err(error) => {
            tracing::warn!(
                event = "descriptor_limit_not_raised",
                soft,
                hard,
                "cannot raise the limit of open descriptors: {error}"
            );
            Some(soft)
        }
    }
}

/// What a server with so many descriptors may have at once, which is logged; so is what a client may not have because of
/// it.
#[must_use]
pub fn share_out(descriptors: u64, loops: usize, settings: &ServerSettings) -> Budget {
    let budget = Budget::of(descriptors, loops);
    let Budget { visitors, conns, handshakes, sessions, tunnels } = budget;
    tracing::info!(
        event = "descriptors_shared_out",
        descriptors,
        visitors,
        conns,
        handshakes,
        sessions,
        tunnels,
        "what the limit of open files allows at once"
    );
    let scopes = settings.credentials.iter().map(|credential| &credential.scope);
    let most = scopes.chain(settings.credentials.is_empty().then_some(&settings.open_scope));
    let most = most.map(|scope| scope.max_connections).max().unwrap_or(0);
    if most > visitors {
        let needed = Budget::needed(most, loops);
        tracing::warn!(
            event = "max_connections_out_of_reach",
            max_connections = most,
            descriptors,
            visitors,
            needed,
            "max_connections is {most}, but {descriptors} open files are enough for {visitors} visitors: more are reset; \
             raise the limit (LimitNOFILE in the unit, ulimit -n) to {needed}, or lower max_connections"
        );
    }
    budget
}

/// Keeps the memory of this process to itself, where tokens and keys are: no core dumps, and no debugger or look into
/// `/proc/PID/environ` by others of the same user. That is also why `CPROXY_TOKEN` stays in the environment: taking it
/// out (unsetenv) leaves its bytes where that file shows them. A failure is only logged.
///
/// So that end-to-end tests without root can count descriptors, a debug build can be told by the environment not to.
pub fn hide_memory() {
    if cfg!(debug_assertions) && std::env::var_os("CPROXY_TEST_DUMPABLE").is_some_and(|value| value == "1") {
        return;
    }
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(event = "memory_not_hidden", "cannot turn core dumps off (PR_SET_DUMPABLE): {error}");
    }
}

/// Makes sure that nothing this process could ever be made to run gains privileges (set-user-id programs, file
/// capabilities). A failure is only logged: the programs run nothing.
pub fn renounce_new_privileges() {
    if let Err(error) = prctl::set_no_new_privs() {
        tracing::warn!(
            event = "privileges_not_renounced",
            "cannot renounce new privileges (PR_SET_NO_NEW_PRIVS): {error}"
        );
    }
}
