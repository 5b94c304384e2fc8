//! `cproxy-server`: takes visitors on public ports and hands them to clients.
#![forbid(unsafe_code)]

use bins::flags::{Command, ServerFlags};
use bins::signals::Caught;
use bins::{assemble, certificates, exit, flags, limits, logging, notify, signals, token};
use runtime_epoll::server::{self, StartError};
use std::error::Error;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

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
    certificates::attend(assembled.besides);
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

/// How often a server looks for an address that its machine does not have yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Starts the server, as soon as this machine has its address; `None`: it was asked to stop before.
fn start(config: server::Config, caught: &mut Caught) -> Result<Option<server::Server>, StartError> {
    let mut waiting = false;
    loop {
        match server::start(config.clone()) {
            Ok(server) => {
                notify::ready(&format!("ctl {}, proxy {}", server.ctl_addr(), server.proxy_addr()));
                return Ok(Some(server));
            }
            Err(error) if error.lacks_the_address() => {
                if !waiting {
                    let address = config.bind_addr;
                    tracing::warn!("{error}");
                    // A boot need not wait for it, too.
                    notify::ready(&format!("waiting for address {address}"));
                    waiting = true;
                }
                if caught.asked_within(LOOK_AGAIN) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn run(config: server::Config) -> Result<(), Box<dyn Error>> {
    let mut caught = signals::catch()?;
    let pin = config.tls.as_ref().map(|tls| tls.own().pin());
    let Some(server) = start(config, &mut caught)? else { return Ok(()) };
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
