//! The proxy that connections to the server go through: where it is said, and how it is written. No message here ever
//! shows what was written, as that may hold a password.

use crate::address::HostPort;
use crate::problem::{Problem, way_to_read};
use crate::token::{open_to_others, read_file};
use protocol_sm::outbound::{Credentials, OutboundProxy, Scheme};
use protocol_sm::settings::Token;
use protocol_sm::sources::Network;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// The environment variable that may name the proxy.
pub const VARIABLE: &str = "CPROXY_OUTBOUND_PROXY";

/// What to write to leave the choice to the variables that other programs know.
const ENVIRONMENT: &str = "environment";

/// Where a client's connections to the server go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundSource {
    /// Through this proxy.
    Proxy(OutboundProxy),
    /// Through the one in `HTTPS_PROXY` or `ALL_PROXY`, unless `NO_PROXY` names the server.
    Environment,
    /// Through the one that this file names.
    File {
        /// The file.
        path: PathBuf,
        /// Which key names the file, for messages.
        named_by: String,
    },
}

/// The value of the flag, which is not shown.
#[derive(Clone)]
pub struct Given(String);

impl From<String> for Given {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given")
    }
}

impl OutboundSource {
    /// Reads what a key, a flag or the variable says.
    ///
    /// # Errors
    /// The end of a sentence about it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == ENVIRONMENT { Ok(Self::Environment) } else { parse(text, None).map(Self::Proxy) }
    }

    /// Whether it holds a password itself.
    pub(crate) fn holds_secret(&self) -> bool {
        matches!(self, Self::Proxy(OutboundProxy { credentials: Some(_), .. }))
    }

    /// The proxy on the way to the server on `host`, if one is in between. `get` reads the environment.
    pub(crate) fn proxy(
        &self,
        host: &str,
        get: &dyn Fn(&str) -> Option<OsString>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<OutboundProxy>, Problem> {
        match self {
            Self::Proxy(proxy) => Ok(Some(proxy.clone())),
            Self::Environment => from_environment(host, get),
            Self::File { path, named_by } => {
                let shown = path.display();
                let bytes = read_file(path).map_err(|error| {
                    Problem::new(format!("{named_by}: cannot read `{shown}`: {error}; {}", way_to_read(path, &error)))
                })?;
                let parsed = match std::str::from_utf8(bytes.trim_ascii()) {
                    Ok(text) => parse(text, None),
                    Err(_) => Err("is not UTF-8 text".to_owned()),
                };
                let proxy = parsed.map_err(|what| Problem::new(format!("{named_by}: what `{shown}` holds {what}")))?;
                warnings.extend(proxy.credentials.as_ref().and_then(|_| open_to_others(path)));
                Ok(Some(proxy))
            }
        }
    }
}

/// What the flag or the variable says; the flag comes first. An empty variable says nothing.
pub(crate) fn over_the_file(
    flag: Option<&Given>,
    variable: Option<OsString>,
    warnings: &mut Vec<String>,
) -> Result<Option<OutboundSource>, Problem> {
    let said = |by: &str, text: &str| {
        OutboundSource::parse(text).map(Some).map_err(|what| Problem::new(format!("{by} {what}")))
    };
    if let Some(Given(text)) = flag {
        let source = said("--outbound-proxy", text)?;
        if source.as_ref().is_some_and(OutboundSource::holds_secret) {
            warnings.push(format!(
                "--outbound-proxy shows its password to all users of this machine (in `ps`); write it into the \
                 configuration file, a file that `outbound_proxy_file` names, or the variable {VARIABLE}"
            ));
        }
        return Ok(source);
    }
    match variable.filter(|value| !value.is_empty()) {
        Some(value) => said(&format!("the environment variable {VARIABLE}"), text_of(&value)),
        None => Ok(None),
    }
}

/// Nothing that is not UTF-8 is a URL, and what is shown of it is nothing either.
fn text_of(value: &OsString) -> &str {
    value.to_str().unwrap_or_default()
}

/// Small letters come first, as most programs have it.
fn from_environment(host: &str, get: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<OutboundProxy>, Problem> {
    let first = |names: &[&'static str]| {
        let mut values = names.iter().filter_map(|&name| Some((name, get(name).filter(|value| !value.is_empty())?)));
        values.next()
    };
    let Some((name, value)) = first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]) else { return Ok(None) };
    let exempt = first(&["no_proxy", "NO_PROXY"]);
    if exempt.is_some_and(|(_, list)| is_exempt(host, text_of(&list))) {
        return Ok(None);
    }
    let proxy = parse(text_of(&value), Some("http"));
    proxy.map(Some).map_err(|what| Problem::new(format!("the environment variable {name} {what}")))
}

/// Whether `list` names `host`: as itself, by a domain that it is in, by a network, or with `*`.
fn is_exempt(host: &str, list: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some(ip) = ip {
            let bare = entry.trim_start_matches('[').trim_end_matches(']');
            return bare.parse().is_ok_and(|network: Network| network.contains(ip));
        }
        let domain = entry.trim_start_matches("*.").trim_matches('.');
        host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.') && !domain.is_empty())
    })
}

/// Reads the URL of a proxy; `scheme` is what it has without a word.
fn parse(text: &str, scheme: Option<&str>) -> Result<OutboundProxy, String> {
    const EXPECTED: &str = "write http://HOST:PORT or socks5://HOST:PORT, with USER:PASSWORD@ in front of the host if the \
                            proxy wants to know who asks";
    let (scheme, rest) = match (text.split_once("://"), scheme) {
        (Some(both), _) => both,
        (None, Some(scheme)) => (scheme, text),
        (None, None) => return Err(format!("is not the URL of a proxy; {EXPECTED}, or \"{ENVIRONMENT}\"")),
    };
    let (scheme, port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, 80),
        "socks5" | "socks5h" => (Scheme::Socks5, 1080),
        "https" => return Err(format!("asks for TLS towards the proxy, which is not there; {EXPECTED}")),
        _ => return Err(format!("has a scheme that is neither http nor socks5; {EXPECTED}")),
    };
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let place = place.strip_suffix('/').unwrap_or(place);
    let at = place.parse().or_else(|_| format!("{place}:{port}").parse::<HostPort>());
    let at = at.map_err(|_| format!("does not say where the proxy is; {EXPECTED}"))?.to_string();
    let credentials = login.map(|login| credentials(login, scheme)).transpose()?;
    Ok(OutboundProxy { scheme, at, credentials })
}

fn credentials(login: &str, scheme: Scheme) -> Result<Credentials, String> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let decoded = |text| decoded(text).ok_or("has a % without two hexadecimal digits behind it; write %25 for a %");
    let (user, password) = (decoded(user)?, decoded(password)?);
    if user.len() > 255 || password.len() > 255 {
        return Err("has a user or a password of more than 255 bytes".to_owned());
    }
    match scheme {
        Scheme::Http if user.contains(&b':') => {
            Err("has a user with a colon, which no HTTP proxy can be told".to_owned())
        }
        Scheme::Socks5 if user.is_empty() => Err("has a password and no user".to_owned()),
        Scheme::Http | Scheme::Socks5 => Ok(Credentials { user: Token::new(user), password: Token::new(password) }),
    }
}

/// Without the percent encoding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            (digit()? * 16 + digit()?) as u8
        } else {
            byte
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> OutboundProxy {
        parse(text, None).unwrap()
    }

    fn login(user: &str, password: &str) -> Option<Credentials> {
        let token = |text: &str| Token::new(text.as_bytes().to_vec());
        Some(Credentials { user: token(user), password: token(password) })
    }

    #[test]
    fn proxies_are_urls() {
        for (text, shown) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("HTTP://proxy.example/", "http://proxy.example:80"),
            ("http://u:p@[2001:db8::1]:3128/", "http://[2001:db8::1]:3128"),
            ("socks5://[::1]", "socks5://[::1]:1080"),
            ("socks5h://10.0.0.1:9", "socks5://10.0.0.1:9"),
        ] {
            assert_eq!(proxy(text).to_string(), shown);
        }
    }

    #[test]
    fn a_login_is_percent_decoded_and_ends_at_the_last_at_sign() {
        assert_eq!(proxy("http://h:1").credentials, None);
        assert_eq!(proxy("http://me@h:1").credentials, login("me", ""));
        assert_eq!(proxy("http://me:pa:ss@w/rd@h:1").credentials, login("me", "pa:ss@w/rd"));
        assert_eq!(proxy("socks5://a%3Ab:%40%2f%25@h").credentials, login("a:b", "@/%"));
    }

    #[test]
    fn what_is_wrong_is_said_and_the_password_is_not() {
        for (text, said) in [
            ("s3cret", "is not the URL of a proxy; write http://HOST:PORT"),
            ("https://u:s3cret@h:1", "asks for TLS towards the proxy"),
            ("socks4://u:s3cret@h:1", "neither http nor socks5"),
            ("http://u:s3cret@", "does not say where the proxy is"),
            ("http://u:s3cret@h:99999", "does not say where the proxy is"),
            ("http://u:s3cret%4@h:1", "has a % without two hexadecimal digits"),
            ("http://a%3Ab:s3cret@h:1", "has a user with a colon"),
            ("socks5://:s3cret@h:1", "has a password and no user"),
        ] {
            let error = OutboundSource::parse(text).unwrap_err();
            assert!(error.contains(said) && !error.contains("s3cret"), "{text}: {error}");
        }
        let long = format!("socks5://u:{}@h:1", "x".repeat(256));
        assert!(OutboundSource::parse(&long).unwrap_err().contains("more than 255 bytes"));
        let source = OutboundSource::parse("http://user:s3cret@h:1").unwrap();
        let given = Given::from("http://user:s3cret@h:1".to_owned());
        let printed = format!("{source:?} {given:?} {}", proxy("http://user:s3cret@h:1"));
        assert!(!printed.contains("s3cret") && !printed.contains("user:s"), "{printed}");
    }

    #[test]
    fn the_flag_comes_first_then_the_variable_and_an_empty_one_says_nothing() {
        let mut warnings = Vec::new();
        let flag = Given::from("http://u:s3cret@flag:1".to_owned());
        let mut source = |flag, variable: &str| {
            let said = over_the_file(flag, Some(variable.into()), &mut warnings).unwrap();
            said.map(|source| match &source {
                OutboundSource::Proxy(proxy) => proxy.to_string(),
                OutboundSource::Environment | OutboundSource::File { .. } => format!("{source:?}"),
            })
        };
        assert_eq!(source(None, ""), None);
        assert_eq!(source(None, "environment").as_deref(), Some("Environment"));
        assert_eq!(source(None, "http://u:s3cret@variable:1").as_deref(), Some("http://variable:1"));
        assert_eq!(source(Some(&flag), "http://variable:1").as_deref(), Some("http://flag:1"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("--outbound-proxy shows its password") && !warnings[0].contains("s3cret"));
        let problem = over_the_file(None, Some("s3cret".into()), &mut warnings).unwrap_err().to_string();
        assert!(problem.starts_with("the environment variable CPROXY_OUTBOUND_PROXY is not the URL"), "{problem}");
    }

    #[test]
    fn the_environment_is_read_as_other_programs_do() {
        let read = |host: &str, there: &[(&str, &str)]| {
            let get = |name: &str| there.iter().find(|(of, _)| *of == name).map(|(_, value)| OsString::from(value));
            from_environment(host, &get).map(|proxy| proxy.map(|proxy| proxy.to_string()))
        };
        assert_eq!(read("h", &[]).unwrap(), None);
        assert_eq!(read("h", &[("HTTPS_PROXY", "")]).unwrap(), None);
        let both =
            [("HTTPS_PROXY", "http://large:1"), ("https_proxy", "http://small:1"), ("ALL_PROXY", "socks5://all")];
        assert_eq!(read("h", &both).unwrap().as_deref(), Some("http://small:1"));
        assert_eq!(read("h", &both[2..]).unwrap().as_deref(), Some("socks5://all:1080"));
        assert_eq!(read("h", &[("all_proxy", "proxy:3128")]).unwrap().as_deref(), Some("http://proxy:3128"));
        let problem = read("h", &[("HTTPS_PROXY", "ftp://u:s3cret@h")]).unwrap_err().to_string();
        assert!(problem.starts_with("the environment variable HTTPS_PROXY has a scheme"), "{problem}");
        assert!(!problem.contains("s3cret"));
        let there = [("ALL_PROXY", "http://proxy:1"), ("NO_PROXY", "a.example, 10.0.0.0/8")];
        assert_eq!(read("b.a.example", &there).unwrap(), None);
        assert_eq!(read("10.1.2.3", &there).unwrap(), None);
        assert!(read("b.example", &there).unwrap().is_some());
    }

    #[test]
    fn no_proxy_names_hosts_domains_and_networks() {
        for (list, host) in [
            ("*", "any.example"),
            ("x,Example.com", "example.COM."),
            (".example.com", "a.example.com"),
            ("*.example.com", "a.b.example.com"),
            ("example.com y", "example.com"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::/32", "2001:db8::1"),
            ("[::1]", "::1"),
        ] {
            assert!(is_exempt(host, list), "{list} {host}");
        }
        for (list, host) in [
            ("", "example.com"),
            (".", "example.com"),
            ("example.com", "badexample.com"),
            ("a.example.com", "example.com"),
            ("192.0.2.0/24", "192.0.3.7"),
            ("2.7", "192.0.2.7"),
        ] {
            assert!(!is_exempt(host, list), "{list} {host}");
        }
    }

    #[test]
    fn a_file_holds_the_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy");
        let source =
            OutboundSource::File { path: path.clone(), named_by: "client.toml:1: `outbound_proxy_file`".into() };
        let none = |_: &str| None;
        let mut warnings = Vec::new();
        let problem = source.proxy("h", &none, &mut warnings).unwrap_err().to_string();
        assert!(problem.starts_with("client.toml:1: `outbound_proxy_file`: cannot read"), "{problem}");
        std::fs::write(&path, "http://u:s3cret@proxy:3128\n").unwrap();
        let proxy = source.proxy("h", &none, &mut warnings).unwrap().unwrap();
        assert_eq!((proxy.to_string(), proxy.credentials), ("http://proxy:3128".to_owned(), login("u", "s3cret")));
        assert!(warnings[0].contains("chmod 600") && !format!("{warnings:?}{source:?}").contains("s3cret"));
        std::fs::write(&path, "u:s3cret@proxy").unwrap();
        let problem = source.proxy("h", &none, &mut warnings).unwrap_err().to_string();
        assert!(problem.contains("` holds is not the URL of a proxy") && !problem.contains("s3cret"), "{problem}");
    }
}
