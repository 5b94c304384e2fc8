//! `cproxy-server`: takes visitors on public ports and hands them to clients.
#![forbid(unsafe_code)]

use bins::flags::{Command, ServerFlags};
use bins::{assemble, exit, flags, limits, logging, signals, token};
use runtime_epoll::server;
use runtime_epoll::tls::ServerTls;
use std::error::Error;
use std::io::{Write, stdout};
use std::process::ExitCode;

fn main() -> ExitCode {
    let flags: ServerFlags = flags::parse();
    if let Some(Command::CheckConfig { file }) = &flags.command {
        let common = assemble::only_file(file);
        let only_file = ServerFlags { common, command: flags.command.clone(), ..ServerFlags::default() };
        return exit::check_config(file, assemble::server(&only_file, None));
    }
    let assembled = match assemble::server(&flags, std::env::var_os(token::VARIABLE)) {
        Ok(assembled) => assembled,
        Err(error) => return exit::bad_configuration(&error),
    };
    logging::start(assembled.logs);
    for warning in &assembled.warnings {
        tracing::warn!("{warning}");
    }
    limits::hide_memory();
    limits::renounce_new_privileges();
    limits::raise_descriptor_limit();
    match run(assembled.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(exit::FAILED)
        }
    }
}

fn run(config: server::Config) -> Result<(), Box<dyn Error>> {
    let caught = signals::catch()?;
    let pin = config.tls.as_ref().map(ServerTls::pin);
    let server = server::start(config)?;
    caught.stop_with(server.stopper())?;
    let mut out = stdout();
    // Whoever closed standard output does not want to know.
    let _unread = writeln!(out, "Listening ctl {} proxy {}", server.ctl_addr(), server.proxy_addr());
    if let Some(pin) = pin {
        // As it stands in a client's file.
        let _unread = writeln!(out, "tls_pin = \"{pin}\"");
    }
    let _unread = out.flush();
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
