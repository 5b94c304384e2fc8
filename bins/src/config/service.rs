//! The keys of a tunnel that say what the service behind its hosts is like.

use super::section::Section;
use protocol_sm::routes::{Service, Speaks, Web};

const ALPN: &str = "alpn";
const REDIRECT: &str = "redirect_to_https";
const FORWARDED: &str = "forwarded_headers";
const ONE_REQUEST: &str = "one_request_per_connection";

/// All of them.
const KEYS: [&str; 4] = [ALPN, REDIRECT, FORWARDED, ONE_REQUEST];

/// Reads them. `web`: its visitors come to the port of hosts for this.
pub(super) fn service(section: &Section<'_>, web: Option<Web>) -> Service {
    if web != Some(Web::Http)
        && let Some(key) = KEYS.into_iter().find(|key| section.has(key))
    {
        let what = "is for tunnels with `hosts` and `protocol = \"http\"`: of others the server reads no request";
        section.problem(key, what.into());
        return Service::default();
    }
    let speaks = speaks(section).unwrap_or_default();
    let forwarded = section.boolean(FORWARDED).unwrap_or(false);
    let one_request = section.boolean(ONE_REQUEST).unwrap_or(false);
    if forwarded && !one_request {
        let what = format!(
            "needs `{ONE_REQUEST} = true`: the server sees the first request of a connection only, so a later one could \
             say what it likes of its visitor; with that key the service is told to close behind the first one's answer"
        );
        section.problem(FORWARDED, what);
    }
    if one_request && !forwarded {
        section.problem(ONE_REQUEST, format!("stands without `{FORWARDED} = true`, for which alone it is there"));
    }
    if forwarded && speaks != Speaks::Http1 {
        section.problem(
            FORWARDED,
            format!("cannot be had with HTTP/2 (`{ALPN}`), whose requests the server does not read"),
        );
    }
    Service { speaks, redirect: section.boolean(REDIRECT).unwrap_or(false), forwarded }
}

fn speaks(section: &Section<'_>) -> Option<Speaks> {
    let expected = "[\"http/1.1\"], [\"h2\"], or [\"h2\", \"http/1.1\"]";
    let listed = section.texts(ALPN, expected)?;
    let (mut one, mut two) = (false, false);
    for (line, text) in listed {
        match text {
            "http/1.1" => one = true,
            "h2" => two = true,
            _ => {
                let shown = text.escape_debug();
                section.item_problem(ALPN, line, &format!("\"{shown}\" is not known here; write {expected}"));
                return None;
            }
        }
    }
    match (one, two) {
        (true, false) => Some(Speaks::Http1),
        (false, true) => Some(Speaks::Http2),
        (true, true) => Some(Speaks::Both),
        (false, false) => {
            section.problem(ALPN, format!("is an empty list; write {expected}, or leave the key out"));
            None
        }
    }
}
