//! What a server needs: its ports and addresses, its secrets, and what the machine allows.

use super::{CONFIGURATION, Findings, machine, running};
use crate::admin;
use crate::assemble;
use crate::flags::{Aim, Doctor, ServerFlags};
use crate::invitation;
use crate::token;
use protocol_sm::budget::Budget;
use protocol_sm::routes::Web;
use protocol_sm::settings::ServerSettings;
use runtime_epoll::inherit::Inherited;
use runtime_epoll::server::{self, StartError};
use std::process::ExitCode;
use std::time::SystemTime;

/// `cproxy-server doctor`.
#[must_use]
pub fn server(asked: Doctor<ServerFlags>) -> ExitCode {
    let mut findings = Findings::of(admin::SERVER, asked.json);
    let variable = |name: &str| std::env::var_os(name);
    let own_token = invitation::own_file(&asked.flags.common, variable);
    let flags = ServerFlags { aim: Aim::Examine, own_token: own_token.clone(), ..asked.flags };
    let assembled = match assemble::server(&flags, variable(token::VARIABLE)) {
        Ok(assembled) => assembled,
        Err(error) => return findings.conclude_bad_configuration(&error),
    };
    let config = assembled.config;
    findings.ok(CONFIGURATION, "all of it can be read");
    assembled.warnings.into_iter().for_each(|warning| findings.warn(CONFIGURATION, warning));
    match (own_token, &config.settings.credentials[..]) {
        (Some(file), []) => {
            findings.note("tokens", format!("none is given, so the first start makes one: {}", file.display()));
        }
        (_, credentials) => {
            let count = credentials.iter().map(|credential| credential.tokens.len()).sum::<usize>();
            findings.ok("tokens", format!("{count} of {} holder(s)", credentials.len()));
        }
    }
    match &config.tls {
        Some(tls) => {
            findings.ok("tls", format!("clients pin the server's key with: tls_pin = \"{}\"", tls.own().pin()))
        }
        None if flags.common.tls == Some(true) => findings.note("tls", "the first start makes the key"),
        None => findings.note("tls", "clients and the server talk in the clear; --tls encrypts"),
    }
    for watch in &assembled.besides.watches {
        let (own, file) = watch.certificate();
        let end = own.not_after().map_or("has no end".to_owned(), |end| format!("ends on {}", machine::date(end)));
        let names = own.names();
        let of = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
        let says = format!("`{}`, for {of}, {end}", file.display());
        if own.not_after().is_some_and(|end| end < SystemTime::now()) {
            findings.fail("certificate", says + ", which is over: renew it");
        } else {
            findings.ok("certificate", says);
        }
    }
    machine::clock(&mut findings);
    let loops = config.work_threads.get();
    descriptors(&mut findings, &config.settings, loops);
    machine::pipes(&mut findings, loops);
    machine::memory(&mut findings);
    ports(&mut findings, config);
    findings.conclude()
}

/// The shares that a server would have.
fn descriptors(findings: &mut Findings, settings: &ServerSettings, loops: usize) {
    let Some(limit) = machine::descriptor_limit() else { return };
    let visitors = Budget::of(limit, loops).visitors;
    let says = format!("{limit} open files are allowed, which is enough for {visitors} visitors at once");
    let most = settings.credentials.iter().map(|credential| credential.scope.max_connections).max();
    let most = most.unwrap_or(settings.open_scope.max_connections);
    if most > visitors {
        let needed = Budget::needed(most, loops);
        findings.warn(
            "descriptors",
            format!("{says}, and max_connections is {most}; raise the limit (LimitNOFILE in the unit, ulimit -Hn) to {needed}"),
        );
    } else {
        findings.ok("descriptors", says);
    }
}

/// Opens the server's ports, and closes them at once.
fn ports(findings: &mut Findings, config: server::Config) {
    const CHECK: &str = "ports";
    let ctl_port = config.ctl_port.to_string();
    match server::start(config, &mut Inherited::default()) {
        Ok(server) => {
            let hosts = Web::ALL.into_iter().zip(server.host_addrs());
            let hosts: String = hosts.filter_map(|(web, at)| Some(format!(", {} {}", web.scheme(), at?))).collect();
            findings.ok(CHECK, format!("free: ctl {}, proxy {}{hosts}", server.ctl_addr(), server.proxy_addr()));
        }
        Err(StartError::Io(error)) => findings.fail(CHECK, StartError::Io(error).to_string()),
        Err(error) => match running(admin::SERVER).filter(|status| status.instance == ctl_port) {
            Some(status) => {
                findings.ok(
                    CHECK,
                    format!("the cproxy-server that runs here (process {}) has ctl port {ctl_port}", status.pid),
                );
            }
            None => findings.fail(CHECK, error.to_string()),
        },
    }
}
