//! Flag over environment over file over default: for every setting that both programs have, in both programs.

use super::{Files, run_client, run_server};
use crate::flags::CommonFlags;
use clap::Args;
use protocol_sm::settings::Token;
use std::collections::BTreeSet;

/// What of a configuration the table looks at.
struct Seen {
    threads: usize,
    token: String,
    tls: bool,
    drain: f64,
    logs: String,
}

/// A setting: a line of the file, a flag, and what is seen of each.
struct Setting {
    flag: &'static str,
    in_the_file: &'static str,
    on_the_command_line: &'static str,
    look: fn(&Seen) -> String,
    default: &'static str,
    from_file: &'static str,
    from_flag: &'static str,
}

const SETTINGS: [Setting; 8] = [
    Setting {
        flag: "work_thread_nums",
        in_the_file: "work_thread_nums = 30",
        on_the_command_line: "--work-thread-nums=31",
        look: |seen| if seen.threads <= 4 { "few".to_owned() } else { seen.threads.to_string() },
        default: "few",
        from_file: "30",
        from_flag: "31",
    },
    Setting {
        flag: "token_file",
        in_the_file: "token_file = 'one'",
        on_the_command_line: "--token-file=DIRECTORY/two",
        look: |seen| seen.token.clone(),
        default: "",
        from_file: "the first token",
        from_flag: "the second token",
    },
    Setting {
        flag: "tls",
        in_the_file: "tls = true",
        on_the_command_line: "--tls=false",
        look: |seen| seen.tls.to_string(),
        default: "false",
        from_file: "true",
        from_flag: "false",
    },
    Setting {
        flag: "tls",
        in_the_file: "tls = false",
        on_the_command_line: "--tls",
        look: |seen| seen.tls.to_string(),
        default: "false",
        from_file: "false",
        from_flag: "true",
    },
    Setting {
        flag: "drain_timeout",
        in_the_file: "drain_timeout = 4",
        on_the_command_line: "--drain-timeout=0.5",
        look: |seen| seen.drain.to_string(),
        default: "8",
        from_file: "4",
        from_flag: "0.5",
    },
    Setting {
        flag: "log_format",
        in_the_file: "log_format = 'json'",
        on_the_command_line: "--log-format=text",
        look: |seen| seen.logs.split(' ').next().unwrap().to_owned(),
        default: "Text",
        from_file: "Json",
        from_flag: "Text",
    },
    Setting {
        flag: "log_level",
        in_the_file: "log_level = 'error'",
        on_the_command_line: "--log-level=trace",
        look: |seen| seen.logs.split(' ').nth(1).unwrap().to_owned(),
        default: "Info",
        from_file: "Error",
        from_flag: "Trace",
    },
    Setting {
        flag: "log_level",
        in_the_file: "log_level = 'warn'",
        on_the_command_line: "--log-level=info",
        look: |seen| seen.logs.split(' ').nth(1).unwrap().to_owned(),
        default: "Info",
        from_file: "Warn",
        from_flag: "Info",
    },
];

/// What the program says its configuration is, with these lines in its file and these flags.
fn see(program: &str, lines: &str, flag: Option<&str>, variable: Option<&str>) -> Seen {
    let rest = match program {
        "server" => String::new(),
        // Encryption needs to know the server by something, which alone asks for none.
        _ => {
            let tls = if lines.contains("tls = ") { "" } else { "tls = false\n" };
            let pin = "0".repeat(64);
            format!("{tls}tls_pin = 'sha256:{pin}'\nserver = 'h:1'\n[[tunnels]]\nname = 'a'\nlocal = 'h:2'")
        }
    };
    let text = format!("{lines}\n{rest}");
    let files = Files::new(&[("file.toml", &text), ("one", "the first token"), ("two", "the second token")]);
    let config = files.path("file.toml");
    let directory = config.trim_end_matches("/file.toml");
    let flag = flag.map(|flag| flag.replace("DIRECTORY", directory));
    let mut args = vec!["--config", &config];
    args.extend(flag.as_deref());
    // A token does not tell what it is.
    let known = ["first", "second", "third", "fourth"].map(|which| format!("the {which} token"));
    let text = |token: Option<&Token>| {
        let is = |text: &&String| token == Some(&Token::new(text.as_bytes().to_vec()));
        known.iter().find(is).cloned().unwrap_or_default()
    };
    let logs = |logs: crate::logging::Logs| format!("{:?} {:?}", logs.format, logs.level);
    if program == "server" {
        let assembled = run_server(&args, variable).unwrap();
        let config = assembled.config;
        Seen {
            threads: config.work_threads.get(),
            token: text(config.settings.credentials.first().and_then(|holder| holder.tokens.first())),
            tls: config.tls.is_some(),
            drain: config.settings.timings.drain_timeout.as_secs_f64(),
            logs: logs(assembled.logs),
        }
    } else {
        let assembled = run_client(&args, variable).unwrap();
        let config = assembled.config;
        Seen {
            threads: config.work_threads.get(),
            token: text(config.settings.token.as_ref()),
            tls: config.tls.is_some(),
            drain: config.settings.timings.drain_timeout.as_secs_f64(),
            logs: logs(assembled.logs),
        }
    }
}

#[test]
fn every_common_setting_is_the_flags_or_else_the_files_or_else_the_default() {
    for program in ["server", "client"] {
        for setting in &SETTINGS {
            let Setting { flag, in_the_file, on_the_command_line, look, .. } = setting;
            let found = |lines, flag| look(&see(program, lines, flag, None));
            let flag_alone = Some(*on_the_command_line);
            assert_eq!(found("", None), setting.default, "{program}, {flag}: neither");
            assert_eq!(found(in_the_file, None), setting.from_file, "{program}, {flag}: the file");
            assert_eq!(found("", flag_alone), setting.from_flag, "{program}, {flag}: the flag");
            assert_eq!(found(in_the_file, flag_alone), setting.from_flag, "{program}, {flag}: both");
        }
    }
}

#[test]
fn the_token_is_the_flags_or_else_the_environments_or_else_the_files() {
    let flag = Some("--token-file=DIRECTORY/two");
    let variable = Some("the third token");
    for program in ["server", "client"] {
        for (lines, flag, variable, expected) in [
            ("token_file = 'one'", flag, variable, "the second token"),
            ("token_file = 'one'", None, variable, "the third token"),
            ("token_file = 'one'", None, None, "the first token"),
            ("token = 'the fourth token'", flag, variable, "the second token"),
            ("token = 'the fourth token'", None, variable, "the third token"),
            ("token = 'the fourth token'", None, None, "the fourth token"),
            ("", flag, variable, "the second token"),
            ("", None, variable, "the third token"),
            ("", None, None, ""),
        ] {
            let seen = see(program, lines, flag, variable);
            assert_eq!(seen.token, expected, "{program}: file `{lines}`, flag {flag:?}, environment {variable:?}");
        }
    }
}

/// A new flag of both programs has a row.
#[test]
fn no_common_flag_is_without_a_row() {
    let command = CommonFlags::augment_args(clap::Command::new("any"));
    let flags: BTreeSet<_> = command.get_arguments().map(|flag| flag.get_id().to_string()).collect();
    let mut rows: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.flag.to_owned()).collect();
    // It names the file.
    rows.insert("config".to_owned());
    assert_eq!(rows, flags);
}
