//! `cproxy-server`: takes visitors on public ports and hands them to clients.
#![forbid(unsafe_code)]

use bins::flags::{Command, ServerFlags};
use bins::output::{self, Output};
use bins::{assemble, exit, flags, limits, logging, signals, token};
use runtime_epoll::server;
use runtime_epoll::tls::ServerTls;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags: ServerFlags = flags::parse();
    if let Some(Command::CheckConfig { file }) = &flags.command {
        let common = assemble::only_file(file);
        let only_file = ServerFlags { common, command: flags.command.clone(), ..ServerFlags::default() };
        return exit::check_config(file, assemble::server(&only_file, None));
    }
    if let Err(refused) = runtime_epoll::check_calls() {
        return exit::cannot_start(&refused, flags.common.log_format);
    }
    let assembled = match assemble::server(&flags, std::env::var_os(token::VARIABLE)) {
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
    limits::hide_memory();
    limits::renounce_new_privileges();
    let mut config = assembled.config;
    if let Some(descriptors) = limits::raise_descriptor_limit() {
        config.settings.budget = limits::share_out(descriptors, config.work_threads.get(), &config.settings);
    }
    let code = match run(config, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(exit::FAILED)
        }
    };
    output::finish(&[&out, &log]);
    code
}

fn run(config: server::Config, out: &Output) -> Result<(), Box<dyn Error>> {
    let caught = signals::catch()?;
    let pin = config.tls.as_ref().map(ServerTls::pin);
    let server = server::start(config)?;
    caught.stop_with(server.stopper())?;
    out.line(format!("Listening ctl {} proxy {}\n", server.ctl_addr(), server.proxy_addr()));
    if let Some(pin) = pin {
        // As it stands in a client's file.
        out.line(format!("tls_pin = \"{pin}\"\n"));
    }
    let total = server.run()?;
    tracing::info!(
        visitors = total.visitors,
        finished = total.finished,
        aborted = total.aborted,
        proxy_conns = total.proxy_conns,
        refused_by_source = total.refused_by_source,
        refused_by_rate = total.refused_by_rate,
        handshakes_refused = total.turned_away.refused,
        handshakes_dropped = total.turned_away.dropped,
        "stopped"
    );
    Ok(())
}
