//! `cproxy-client`: makes services of this network reachable on public ports of a server.
#![forbid(unsafe_code)]

use bins::access_log::{self, Side};
use bins::flags::{ClientFlags, Command};
use bins::output::{self, Output};
use bins::{admin, assemble, certificates, exit, flags, limits, logging, notify, operate, signals, token};
use runtime_epoll::client::{self, Forwarding, RunError};
use std::process::ExitCode;

const PROGRAM: &str = "cproxy-client";

fn main() -> ExitCode {
    let flags: ClientFlags = flags::parse();
    match &flags.command {
        Some(Command::CheckConfig { file }) => {
            let only_file = ClientFlags { common: assemble::only_file(file), ..ClientFlags::default() };
            return exit::check_config(file, assemble::client(&only_file, None));
        }
        Some(Command::Status(how)) => return operate::conclude(operate::status(PROGRAM, how)),
        None => {}
    }
    if let Err(refused) = runtime_epoll::check_calls() {
        return exit::cannot_start(&refused, flags.common.log_format);
    }
    let assembled = match assemble::client(&flags, std::env::var_os(token::VARIABLE)) {
        Ok(assembled) => assembled,
        Err(error) => return exit::bad_configuration(&error, flags.common.log_format),
    };
    let (log, out) = match logging::start(assembled.logs).and_then(|log| Ok((log, Output::stdout()?))) {
        Ok(both) => both,
        Err(error) => return exit::cannot_start(&error, None),
    };
    let visits = match access_log::start(&assembled.access_log, Side::Client, assembled.logs, &log) {
        Ok(visits) => visits,
        Err(error) => return exit::cannot_start(&error, None),
    };
    for warning in &assembled.warnings {
        tracing::warn!(event = "configuration_warning", "{warning}");
    }
    certificates::attend(assembled.besides);
    limits::hide_memory();
    limits::renounce_new_privileges();
    let _known = limits::raise_descriptor_limit();
    let mut config = assembled.config;
    config.access_log = visits.access_log;
    let code = match run(config, &assembled.admin, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Refused(sentence)) => {
            tracing::error!(event = "refused_for_good", "{sentence}");
            ExitCode::from(exit::HOPELESS)
        }
        Err(RunError::Io(error)) => {
            tracing::error!(event = "failed", "{error}");
            ExitCode::from(exit::FAILED)
        }
    };
    let outputs: Vec<_> = visits.output.iter().chain([&out, &log]).collect();
    output::finish(&outputs);
    code
}

fn run(config: client::Config, place: &admin::Place, out: &Output) -> Result<(), RunError> {
    let caught = signals::catch().map_err(RunError::Io)?;
    // Visitors reach the tunnels at the name under which this client reaches the server.
    let host = config.server.rsplit_once(':').map(|(host, _)| host.to_owned()).unwrap_or_default();
    let client = client::start(config).map_err(RunError::Io)?;
    notify::ready("started");
    caught.stop_with(client.stopper()).map_err(RunError::Io)?;
    let instance = std::process::id().to_string();
    let _admin = admin::start(admin::Program { name: PROGRAM, instance, reporter: client.reporter() }, place);
    let total = client.run(|tunnel| announce(out, &host, tunnel))?;
    tracing::info!(
        event = "stopped",
        finished = total.finished,
        aborted = total.aborted,
        proxy_conns = total.proxy_conns,
        "stopped"
    );
    Ok(())
}

fn announce(out: &Output, host: &str, tunnel: &Forwarding) {
    out.line(format!("Forwarding tcp://{host}:{} -> {}\n", tunnel.public.port(), tunnel.local));
}
