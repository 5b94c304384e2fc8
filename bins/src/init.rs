//! `init`: a configuration file to begin with, made of the table of settings.

use crate::config::settings::{ByItself, Home, Kind, Of, Setting, Topic, settings_of};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

/// Writes a file for `program` to `path`. Returns a sentence about it.
///
/// # Errors
/// There is one already, or it cannot be written: a sentence.
pub fn init(program: Of, path: &Path) -> Result<String, String> {
    let shown = path.display();
    let written = OpenOptions::new().write(true).create_new(true).open(path);
    let written = written.and_then(|mut file| file.write_all(text(program).as_bytes()).and_then(|()| file.sync_all()));
    match written {
        Ok(()) => {
            let (name, edit) = match program {
                Of::Client => ("cproxy-client", "say in it where the server is and what to expose"),
                Of::Server | Of::Both => ("cproxy-server", "read it; it works as it is"),
            };
            Ok(format!("{shown}: written; {edit}, then start with: {name} --config {shown}"))
        }
        Err(_) if path.is_dir() => Err(format!("{shown}: is a directory; name a file in it")),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(format!("{shown}: there is a file already, which stays as it is; name another one, or move it away"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{shown}: its directory is not there; make it, or name another file"))
        }
        Err(error) => {
            Err(format!("{shown}: cannot be written: {error}; name a file in a directory to which this user may write"))
        }
    }
}

/// The file for `program`. All that need not be said is commented out, with what it is by itself, or an example.
#[must_use]
pub fn text(program: Of) -> String {
    let (name, other) = if program == Of::Server { ("cproxy-server", "server") } else { ("cproxy-client", "client") };
    let mut out = format!(
        "# The configuration of {name}. What is commented out is the default, or an example where there is none.\n\
         # Each key can be said in the environment, too: CPROXY_ and its name in large letters; that beats this file, and\n\
         # a flag beats both. Check it, and see what counts: {name} check-config {other}.toml\n"
    );
    let mut topic = None;
    for setting in settings_of(program, Home::Top).filter(|setting| setting.kind != Kind::Sections) {
        if topic.replace(setting.topic) != Some(setting.topic) {
            let _ = write!(out, "\n# {} {}\n", setting.topic.title(), "-".repeat(100 - setting.topic.title().len()));
        }
        explain(&mut out, setting, "");
    }
    let sections: &[(&str, Home, &str)] = match program {
        Of::Server => &[("clients", Home::Clients, "#"), ("certificates", Home::Certificates, "#")],
        Of::Client | Of::Both => &[("tunnels", Home::Tunnels, "")],
    };
    for (section, place, mark) in sections {
        let _ = write!(out, "\n# As many of these as there are.\n{mark}[[{section}]]\n");
        for setting in
            settings_of(program, *place).filter(|setting| setting.home == *place || setting.key == "token_file")
        {
            explain(&mut out, setting, mark);
        }
    }
    out
}

fn explain(out: &mut String, setting: &Setting, mark: &str) {
    let (kind, default) = (setting.kind, setting.default_plainly());
    let sentence = format!("{} ({kind}; by itself {default})", setting.plainly());
    let mut line = String::from("#");
    for word in sentence.split_whitespace() {
        if line.len() + word.len() > 110 {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        let _ = write!(line, " {word}");
    }
    let value = setting.example.map_or_else(|| written(setting), str::to_owned);
    let mark = if setting.default == ByItself::Required && setting.home != Home::Clients { mark } else { "#" };
    let _ = writeln!(out, "{line}\n{mark}{} = {value}", setting.key);
}

/// A default as it stands in a file.
fn written(setting: &Setting) -> String {
    let ByItself::Value(value) = setting.default else { return String::new() };
    match setting.kind {
        Kind::Number(..) | Kind::Seconds(_) | Kind::Switch | Kind::SwitchOrText => value.to_owned(),
        Kind::Text | Kind::Secret | Kind::Path | Kind::Choice(_) | Kind::List | Kind::Sections => {
            format!("\"{value}\"")
        }
    }
}

impl Topic {
    /// Its title.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Places => "Where things are",
            Self::Tokens => "Tokens",
            Self::Use => "What a token's holder may use",
            Self::Visitors => "Who may visit",
            Self::Tls => "TLS",
            Self::Times => "Times, in seconds",
            Self::Tunnels => "Tunnels",
            Self::Services => "Services behind TLS that ends at the server",
            Self::Certificates => "Certificates",
            Self::Flags => "Flags",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, parse_client, parse_server, said_in};

    #[test]
    fn what_is_written_is_in_order_and_says_the_defaults() {
        let (server, client) = (text(Of::Server), text(Of::Client));
        let none = Environment::default();
        let file = parse_server(&server, Path::new("server.toml"), &none).unwrap();
        assert_eq!(file, crate::config::ServerFile::default());
        let file = parse_client(&client, Path::new("client.toml"), &none).unwrap();
        assert_eq!(file.tunnels.len(), 1);
        let said: Vec<_> = said_in(&client).into_iter().map(|said| said.key).collect();
        assert_eq!(said, ["server", "name", "local"], "nothing else must be said");
        for text in [server, client] {
            assert!(text.lines().all(|line| line.chars().count() <= 120));
        }
    }

    #[test]
    fn every_setting_stands_in_it_with_a_value_that_fits() {
        let none = Environment::default();
        for (program, places) in
            [(Of::Server, &[Home::Top, Home::Certificates][..]), (Of::Client, &[Home::Top, Home::Tunnels])]
        {
            let text = text(program);
            for setting in
                places.iter().flat_map(|place| settings_of(program, *place)).filter(|it| it.kind != Kind::Sections)
            {
                let line =
                    text.lines().find(|line| line.trim_start_matches('#').starts_with(&format!("{} = ", setting.key)));
                let line = line.unwrap_or_else(|| panic!("`{}` is missing", setting.key)).trim_start_matches('#');
                if setting.home != Home::Top {
                    continue;
                }
                let result = match program {
                    Of::Server => parse_server(line, Path::new("f"), &none).err(),
                    Of::Client | Of::Both => parse_client(line, Path::new("f"), &none).err(),
                };
                let said = result.map_or_else(String::new, |error| error.to_string());
                assert!(!said.contains("unknown key") && !said.contains("; write "), "{line}: {said}");
            }
        }
    }

    #[test]
    fn a_file_that_is_there_stays_and_what_is_in_the_way_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.toml");
        assert!(init(Of::Server, &path).unwrap().contains("written; read it"));
        std::fs::write(&path, "mine").unwrap();
        assert!(init(Of::Server, &path).unwrap_err().contains("there is a file already"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        let missing = directory.path().join("no/server.toml");
        assert!(init(Of::Server, &missing).unwrap_err().contains("its directory is not there"));
        assert!(init(Of::Server, &path.join("x")).unwrap_err().contains("cannot be written"));
    }
}
