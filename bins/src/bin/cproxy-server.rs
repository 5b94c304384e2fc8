//! `cproxy-server`: takes visitors on public ports and hands them to clients.
#![forbid(unsafe_code)]

use bins::access_log::{self, Side};
use bins::admin::Served;
use bins::config::settings::Of;
use bins::flags::{Aim, Command, ServerCommand, ServerFlags, ServerLine};
use bins::output::{self, Output};
use bins::reload::{Parts, Reload, Turn};
use bins::signals::Caught;
use bins::upgrade::{self, Upgrade};
use bins::{
    admin, assemble, certificates, check, doctor, exit, flags, init, invitation, limits, logging, notify, operate,
    signals, token,
};
use protocol_sm::routes::Web;
use runtime_epoll::inherit::Inherited;
use runtime_epoll::server::{self, StartError};
use std::error::Error;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::time::Duration;

fn main() -> ExitCode {
    let (ServerLine { command, mut flags }, said) = flags::parse(Of::Server);
    match command {
        Some(ServerCommand::CheckConfig(asked)) => {
            let (flags, file) = asked.flags_and_file(|flags| &mut flags.common);
            let outcome =
                assemble::server(&ServerFlags { aim: Aim::Examine, ..flags }, std::env::var_os(token::VARIABLE));
            return exit::check_config(file.as_deref(), outcome, || check::shown(Of::Server, &said, file.as_deref()));
        }
        Some(ServerCommand::Common(Command::Init { file })) => {
            let file = file.unwrap_or_else(|| "server.toml".into());
            return exit::init(init::init(Of::Server, &file));
        }
        Some(ServerCommand::Common(command)) => return operate::run(admin::SERVER, &command),
        Some(ServerCommand::Doctor(asked)) => return doctor::server(*asked),
        Some(ServerCommand::Kick { client, socket }) => {
            return operate::order(&admin::Question::Kick { client }, &socket);
        }
        Some(ServerCommand::Upgrade(socket)) => return operate::upgrade(&socket),
        Some(ServerCommand::Close { port, socket }) => {
            return operate::order(&admin::Question::Close { port }, &socket);
        }
        None => {}
    }
    let inherited = Inherited::take();
    if let Err(refused) = runtime_epoll::check_calls() {
        return exit::cannot_start(&refused, flags.common.log_format);
    }
    let own_token = invitation::own_token(&flags.common, |name| std::env::var_os(name));
    flags.own_token = own_token.clone().ok().flatten();
    let assembled = match assemble::server(&flags, std::env::var_os(token::VARIABLE)) {
        Ok(assembled) => assembled,
        Err(error) => return exit::bad_configuration(&error, flags.common.log_format),
    };
    let ((log, level), out) = match logging::start(assembled.logs).and_then(|log| Ok((log, Output::stdout()?))) {
        Ok(both) => both,
        Err(error) => return exit::cannot_start(&error, None),
    };
    let visits = match access_log::start(&assembled.access_log, Side::Server, assembled.logs, &log) {
        Ok(visits) => visits,
        Err(error) => return exit::cannot_start(&error, None),
    };
    for warning in own_token.as_ref().err().into_iter().chain(&assembled.warnings) {
        tracing::warn!(event = "configuration_warning", "{warning}");
    }
    let attended = certificates::attend(assembled.besides);
    limits::hide_memory();
    limits::renounce_new_privileges();
    let mut config = assembled.config;
    config.access_log = visits.access_log;
    if let Some(descriptors) = limits::raise_descriptor_limit() {
        config.settings.budget = limits::share_out(descriptors, config.work_threads.get(), &config.settings);
    }
    let (path, own_token) = (flags.common.config.clone(), flags.own_token.clone());
    let assemble = Box::new(move || assemble::server(&flags, std::env::var_os(token::VARIABLE)));
    // Told nothing until the server is there.
    let (fixed, told, turn) = (assembled.fixed, assembled.told, Turn::default());
    let parts = Parts { path, assemble, tell: Box::new(|_| None), fixed, told, level, attended, turn };
    let code = match run(config, parts, inherited, assembled.doors, own_token, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(event = "failed", "{error}");
            ExitCode::from(exit::FAILED)
        }
    };
    let outputs: Vec<_> = visits.output.iter().chain([&out, &log]).collect();
    output::finish(&outputs);
    code
}

/// How often a server looks for an address that its machine does not have yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Starts the server, as soon as this machine has its address; `None`: it was asked to stop before.
fn start(
    config: server::Config,
    inherited: &mut Inherited,
    caught: &mut Caught,
) -> Result<Option<server::Server>, StartError> {
    let predecessor = inherited.talk();
    let mut waiting = false;
    loop {
        match server::start(config.clone(), inherited) {
            Ok(server) => {
                if let Some(predecessor) = predecessor {
                    // That one tells systemd.
                    return Ok(upgrade::await_turn(&predecessor).then_some(server));
                }
                // Who serves has them alone: nobody waits where nobody accepts.
                inherited.names().iter().for_each(|name| notify::forget(name));
                notify::ready(Some(&format!("ctl {}, proxy {}", server.ctl_addr(), server.proxy_addr())));
                return Ok(Some(server));
            }
            Err(error) if error.lacks_the_address() => {
                if !waiting {
                    tracing::warn!(event = "address_awaited", "{error}");
                    // A boot need not wait for it, too.
                    notify::ready(Some("waiting for the address to listen on"));
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

fn run(
    config: server::Config,
    parts: Parts<server::Config>,
    mut inherited: Inherited,
    doors: admin::Doors,
    own_token: Option<PathBuf>,
    out: &Output,
) -> Result<(), Box<dyn Error>> {
    let mut caught = signals::catch()?;
    // By its name as it is now: another file may stand there later.
    let program = std::env::current_exe()?;
    let (bind, pin) = (config.bind_addr.clone(), config.tls.as_ref().map(|tls| tls.own().pin()));
    let Some(mut server) = start(config, &mut inherited, &mut caught)? else { return Ok(()) };
    let (mut reloader, turn) = (server.reloader(), parts.turn.clone());
    let reload = Reload::new(Parts { tell: Box::new(move |config| reloader.reload(config)), ..parts });
    let instance = server.ctl_addr().port().to_string();
    let upgrader = server.upgrader();
    let (operator, reloads) = (server.operator(), reload.asked());
    let upgrade = Arc::new_cyclic(|upgrade: &Weak<Upgrade>| {
        let served = Served { operator, reload: reloads, upgrade: Some(upgrade::asked(upgrade)) };
        let open = move || admin::start(admin::SERVER, instance.clone(), served.clone(), &doors);
        Upgrade::new(upgrader, program, turn, Box::new(open))
    });
    let stop = upgrade.serve_stop(server.stopper())?;
    caught.serve(move || stop.ask(), reload.serve()?, Some(upgrade.serve()?))?;
    let hosts = Web::ALL.into_iter().zip(server.host_addrs());
    let hosts: String = hosts.filter_map(|(web, at)| Some(format!(" {} {}", web.scheme(), at?))).collect();
    out.line(format!("Listening ctl {} proxy {}{hosts}\n", server.ctl_addr(), server.proxy_addr()));
    if let Some(pin) = &pin {
        // As it stands in a client's file.
        out.line(format!("tls_pin = \"{pin}\"\n"));
    }
    if let Some(file) = own_token {
        let shown = io::stdout().is_terminal();
        out.line(invitation::command(&file, shown, bind.as_ref(), server.ctl_addr(), pin));
    }
    let total = server.run();
    upgrade.close();
    let total = total?;
    tracing::info!(
        event = "stopped",
        visitors = total.visitors,
        finished = total.finished,
        aborted = total.aborted,
        proxy_conns = total.proxy_conns,
        refused_by_source = total.refused_by_source,
        refused_by_rate = total.refused_by_rate,
        handshakes_refused = total.turned_away.refused.sum(),
        handshakes_dropped = total.turned_away.dropped.sum(),
        "stopped"
    );
    Ok(())
}
