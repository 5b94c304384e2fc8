//! `cproxy-client`: makes services of this network reachable on public ports of a server.
#![forbid(unsafe_code)]

use bins::access_log::{self, Side};
use bins::config::settings::Of;
use bins::flags::{Aim, ClientCommand, ClientFlags, ClientLine, Command};
use bins::output::{self, Output};
use bins::reload::{Parts, Reload, Turn};
use bins::{
    admin, assemble, certificates, check, doctor, exit, flags, init, limits, logging, notify, operate, signals, token,
};
use runtime_epoll::client::{self, Forwarding, RunError};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (ClientLine { command, flags }, said) = flags::parse(Of::Client);
    match command {
        Some(ClientCommand::CheckConfig(asked)) => {
            let (flags, file) = asked.flags_and_file(|flags| &mut flags.common);
            let outcome =
                assemble::client(&ClientFlags { aim: Aim::Examine, ..flags }, std::env::var_os(token::VARIABLE));
            return exit::check_config(file.as_deref(), outcome, || check::shown(Of::Client, &said, file.as_deref()));
        }
        Some(ClientCommand::Common(Command::Init { file })) => {
            let file = file.unwrap_or_else(|| "client.toml".into());
            return exit::init(init::init(Of::Client, &file));
        }
        Some(ClientCommand::Common(command)) => return operate::run(admin::CLIENT, &command),
        Some(ClientCommand::Doctor(asked)) => return doctor::client(*asked),
        None => {}
    }
    if let Err(refused) = runtime_epoll::check_calls() {
        return exit::cannot_start(&refused, flags.common.log_format);
    }
    let assembled = match assemble::client(&flags, std::env::var_os(token::VARIABLE)) {
        Ok(assembled) => assembled,
        Err(error) => return exit::bad_configuration(&error, flags.common.log_format),
    };
    let ((log, level), out) = match logging::start(assembled.logs).and_then(|log| Ok((log, Output::stdout()?))) {
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
    let attended = certificates::attend(assembled.besides);
    limits::hide_memory();
    limits::renounce_new_privileges();
    let _known = limits::raise_descriptor_limit();
    let mut config = assembled.config;
    config.access_log = visits.access_log;
    let path = flags.common.config.clone();
    let assemble = Box::new(move || assemble::client(&flags, std::env::var_os(token::VARIABLE)));
    // Told nothing until the client is there.
    let (fixed, told, turn) = (assembled.fixed, assembled.told, Turn::default());
    let parts = Parts { path, assemble, tell: Box::new(|_| None), fixed, told, level, attended, turn };
    let code = match run(config, parts, &assembled.doors, &out) {
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

fn run(
    config: client::Config,
    parts: Parts<client::Config>,
    doors: &admin::Doors,
    out: &Output,
) -> Result<(), RunError> {
    let caught = signals::catch().map_err(RunError::Io)?;
    let mut client = client::start(config).map_err(RunError::Io)?;
    let mut reloader = client.reloader();
    let reload = Reload::new(Parts { tell: Box::new(move |config| reloader.reload(config)), ..parts });
    notify::ready(Some("started"));
    let stopper = client.stopper();
    caught.serve(move || stopper.stop(), reload.serve().map_err(RunError::Io)?, None).map_err(RunError::Io)?;
    let instance = std::process::id().to_string();
    let asked = admin::Served { operator: client.operator(), reload: reload.asked(), upgrade: None };
    let _admin = admin::start(admin::CLIENT, instance, asked, doors);
    let total = client.run(|tunnel| announce(out, tunnel))?;
    tracing::info!(
        event = "stopped",
        finished = total.finished,
        aborted = total.aborted,
        proxy_conns = total.proxy_conns,
        "stopped"
    );
    Ok(())
}

fn announce(out: &Output, Forwarding { url, local, .. }: &Forwarding) {
    out.line(format!("Forwarding {url} -> {local}\n"));
}
