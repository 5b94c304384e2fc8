//! `cproxy-client`: makes services of this network reachable on public ports of a server.
#![forbid(unsafe_code)]

use bins::flags::{ClientFlags, Command};
use bins::output::{self, Output};
use bins::{admin, assemble, certificates, exit, flags, limits, logging, notify, operate, signals, token};
use runtime_epoll::client::{self, Forwarding, RunError};
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags: ClientFlags = flags::parse();
    match &flags.command {
        Some(Command::CheckConfig { file }) => {
            let only_file = ClientFlags { common: assemble::only_file(file), ..ClientFlags::default() };
            return exit::check_config(file, assemble::client(&only_file, None));
        }
        Some(command) => return operate::run(admin::CLIENT, command),
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
    for warning in &assembled.warnings {
        tracing::warn!("{warning}");
    }
    certificates::attend(assembled.besides);
    limits::hide_memory();
    limits::renounce_new_privileges();
    let _known = limits::raise_descriptor_limit();
    let code = match run(assembled.config, &assembled.doors, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Refused(sentence)) => {
            tracing::error!("{sentence}");
            ExitCode::from(exit::HOPELESS)
        }
        Err(RunError::Io(error)) => {
            tracing::error!("{error}");
            ExitCode::from(exit::FAILED)
        }
    };
    output::finish(&[&out, &log]);
    code
}

fn run(config: client::Config, doors: &admin::Doors, out: &Output) -> Result<(), RunError> {
    let caught = signals::catch().map_err(RunError::Io)?;
    // Visitors reach the tunnels at the name under which this client reaches the server.
    let host = config.server.rsplit_once(':').map(|(host, _)| host.to_owned()).unwrap_or_default();
    let client = client::start(config).map_err(RunError::Io)?;
    notify::ready("started");
    caught.stop_with(client.stopper()).map_err(RunError::Io)?;
    let instance = std::process::id().to_string();
    let _admin = admin::start(admin::CLIENT, instance, client.operator(), doors);
    let total = client.run(|tunnel| announce(out, &host, tunnel))?;
    tracing::info!(finished = total.finished, aborted = total.aborted, proxy_conns = total.proxy_conns, "stopped");
    Ok(())
}

fn announce(out: &Output, host: &str, tunnel: &Forwarding) {
    out.line(format!("Forwarding tcp://{host}:{} -> {}\n", tunnel.public.port(), tunnel.local));
}
