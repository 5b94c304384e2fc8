//! Writes what packages have beside the programs: their manual pages, that of their files, and completions for shells, into
//! a folder:
//!
//! ```sh
//! cargo run -p bins --example pages -- FOLDER
//! ```
//!
//! The pages' date is that of `SOURCE_DATE_EPOCH`, and else today's.

use bins::config::settings::{ByItself, Home, Of, settings_of};
use bins::flags::{ClientLine, ServerLine};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("name the folder to write to"))?;
    write(Path::new(&folder))
}

/// Writes all of it.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let date = date();
    let man = folder.join("man1");
    fs::create_dir_all(&man)?;
    for (mut program, other, file) in [
        (ServerLine::command(), "cproxy-client", "/etc/cproxy/server.toml"),
        (ClientLine::command(), "cproxy-server", "/etc/cproxy/client.toml"),
    ] {
        let name = program.get_name().to_owned();
        for (shell, of) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
            fs::create_dir_all(folder.join(of))?;
            generate_to(shell, &mut program.clone(), &name, folder.join(of))?;
        }
        program.build();
        let commands: Vec<_> = program.get_subcommands().filter(|command| command.get_name() != "help").collect();
        let see: Vec<_> = commands.iter().map(|command| format!("{name}-{}(1)", command.get_name())).collect();
        let mut page = rendered(&program, &name, &date)?;
        section(&mut page, "FILES", &format!("{file} is what the service of this package reads."))?;
        section(&mut page, "SEE ALSO", &format!("{other}(1), cproxy.toml(5), {}", see.join(", ")))?;
        fs::write(man.join(format!("{name}.1")), page)?;
        for command in commands {
            let page_name = format!("{name}-{}", command.get_name());
            let mut page = rendered(command, &page_name, &date)?;
            section(&mut page, "SEE ALSO", &format!("{name}(1)"))?;
            fs::write(man.join(format!("{page_name}.1")), page)?;
        }
    }
    let man = folder.join("man5");
    fs::create_dir_all(&man)?;
    fs::write(man.join("cproxy.toml.5"), keys(&date)?)
}

/// The page of the files' keys.
fn keys(date: &str) -> io::Result<Vec<u8>> {
    let release = format!("cproxy {}", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::new();
    page.control("TH", ["cproxy.toml", "5", date, &release, "CProxy"]);
    page.control("SH", ["NAME"])
        .text([roman("cproxy.toml - what stands in the files of cproxy-server and cproxy-client")]);
    page.control("SH", ["DESCRIPTION"]).text([roman(
        "Each program reads the TOML file that --config names. A flag beats an environment variable, which beats the \
         file. Relative paths start at the file's directory. The programs' init writes a file that explains itself, and \
         check-config says what is wrong with one, or what counts and why.",
    )]);
    for (title, of, home) in [
        ("KEYS OF BOTH", Of::Both, Home::Top),
        ("KEYS OF THE SERVER", Of::Server, Home::Top),
        ("SERVER: [[clients]]", Of::Server, Home::Clients),
        ("SERVER: [[certificates]]", Of::Server, Home::Certificates),
        ("KEYS OF THE CLIENT", Of::Client, Home::Top),
        ("CLIENT: [[tunnels]]", Of::Client, Home::Tunnels),
    ] {
        page.control("SH", [title]);
        for setting in settings_of(of, home).filter(|setting| home != Home::Top || setting.of == of) {
            let default = match setting.default {
                ByItself::Required => "required".to_owned(),
                ByItself::Value(_) | ByItself::Words(_) => format!("default: {}", setting.default_plainly()),
            };
            let says = format!("{} ({}; {default})", setting.plainly(), setting.kind).replace('`', "\"");
            page.control("TP", []).text([bold(setting.key)]).text([roman(says)]);
        }
    }
    page.control("SH", ["FILES"]).text([roman(
        "/etc/cproxy/server.toml and /etc/cproxy/client.toml are what the services of this package read.",
    )]);
    page.control("SH", ["SEE ALSO"]).text([roman("cproxy-server(1), cproxy-client(1)")]);
    let mut written = Vec::new();
    page.to_writer(&mut written)?;
    Ok(written)
}

/// The day of the sources, in UTC.
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let at = given.map_or_else(SystemTime::now, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    OffsetDateTime::from(at).date().to_string()
}

/// The page of a program, or of one of its commands.
fn rendered(command: &Command, name: &str, date: &str) -> io::Result<Vec<u8>> {
    let release = format!("cproxy {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name).date(date).source(release).manual("CProxy");
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok(page)
}

fn section(page: &mut Vec<u8>, title: &str, text: &str) -> io::Result<()> {
    Roff::new().control("SH", [title]).text([roman(text)]).to_writer(page)
}
