//! What packages have beside the programs can be read by those who read such things.

#[path = "../../examples/pages.rs"]
#[allow(dead_code, unreachable_pub)]
mod example;

use bins::config::settings::{Home, SETTINGS};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a program, if there is one; says so past the test runner's capture, if not.
fn run(program: &str, words: &[&str], file: &Path) -> Option<Output> {
    let ran = Command::new(program).args(words).arg(file).output();
    if ran.is_err() {
        let _unread =
            writeln!(std::io::stderr(), "SKIPPED pages: {} is not looked at: needs {program}", file.display());
    }
    ran.ok()
}

fn files(folder: PathBuf) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn manual_pages_and_completions_are_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    example::write(folder.path()).unwrap();
    let pages = files(folder.path().join("man1"));
    for name in ["cproxy-server.1", "cproxy-client.1", "cproxy-client-doctor.1", "cproxy-server-upgrade.1"] {
        assert!(pages.iter().any(|page| page.ends_with(name)), "{name}: {pages:?}");
    }
    let keys = files(folder.path().join("man5"));
    let text = std::fs::read_to_string(&keys[0]).unwrap();
    for setting in SETTINGS.iter().filter(|setting| setting.home != Home::Flag) {
        let entry = format!(".TP\n\\fB{}\\fR\n", setting.key);
        assert!(text.contains(&entry), "{} is not in {keys:?}", setting.key);
    }
    for page in pages.iter().chain(&keys) {
        let text = std::fs::read_to_string(page).unwrap();
        let title = text.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(title.split(' ').nth(3).unwrap().chars().filter(|c| *c == '-').count() == 2, "no date: {title}");
        // What is a matter of taste is not asked for.
        if let Some(lint) = run("mandoc", &["-T", "lint", "-W", "warning"], page) {
            assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
        }
        if let Some(whatis) = run("lexgrog", &[], page) {
            let said = String::from_utf8(whatis.stdout).unwrap();
            let name = page.file_stem().unwrap().to_str().unwrap();
            assert!(whatis.status.success() && said.contains(&format!("\"{name} - ")), "{said}");
        }
    }
    for (shell, words) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let completions = files(folder.path().join(shell));
        assert_eq!(completions.len(), 2, "{completions:?}");
        for file in completions {
            if let Some(ran) = run(shell, words, &file) {
                assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            }
        }
    }
}

/// The files that a package puts into /etc/cproxy.
#[test]
fn the_example_files_pass_their_check() {
    for (command, name) in
        [(crate::program::server as fn(&str) -> Command, "server.toml"), (crate::program::client, "client.toml")]
    {
        let file = format!("{}/dist/etc/{name}", env!("CARGO_MANIFEST_DIR"));
        let ended = crate::program::run(command(&format!("check-config {file}")));
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        // All that is written as a comment is a key, too.
        let all = std::fs::read_to_string(&file).unwrap();
        let uncommented = all.lines().map(|line| match line.strip_prefix("# ") {
            Some(key)
                if key
                    .split('=')
                    .next()
                    .is_some_and(|key| key.trim().chars().all(|c| c.is_ascii_lowercase() || c == '_')) =>
            {
                key.replace("sha256:…", &format!("sha256:{}", "0".repeat(64)))
            }
            _ => line.to_owned(),
        });
        let folder = crate::program::Files::new(&[(name, &uncommented.collect::<Vec<_>>().join("\n"))]);
        let mut command = command(&format!("check-config {}", folder.path(name)));
        command.env("STATE_DIRECTORY", folder.path("."));
        let ended = crate::program::run(command);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
}
