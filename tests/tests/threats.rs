//! SECURITY.md says what each attacker cannot do, and names the tests that show it: they are there. So is the border
//! around unsafe code that it speaks of.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use tests::limit::arm;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this package")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tests that `text` cites as `file::name`.
fn citations(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"))
}

#[test]
fn the_tests_that_the_security_document_cites_are_there() {
    arm();
    let text = read(&workspace().join("SECURITY.md"));
    let cited: Vec<_> = citations(&text).collect();
    assert!(cited.len() > 30, "only {} tests cited", cited.len());
    for (file, test) in cited {
        let folder = if workspace().join(format!("{file}.rs")).is_file() { "" } else { "tests/tests" };
        let path = workspace().join(folder).join(format!("{file}.rs"));
        let here = read(&path).lines().any(|line| line.trim() == format!("fn {test}() {{"));
        assert!(here, "{} has no test `{test}`", path.display());
    }
}

#[test]
fn every_attacker_has_a_test() {
    arm();
    let text = read(&workspace().join("SECURITY.md"));
    let (_, attackers) = text.split_once("## Attackers").expect("the section");
    let (attackers, _) = attackers.split_once("\n## ").expect("a section behind it");
    let rows: Vec<_> = attackers.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 8, "{rows:?}");
    for row in rows {
        assert!(citations(row).next().is_some(), "no test is named: {row}");
    }
}

#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    arm();
    let forbids = ["protocol-sm/src/lib.rs", "bins/src/lib.rs", "runtime-sim/src/lib.rs", "fuzz/src/lib.rs"];
    let programs = ["bins/src/bin/cproxy-server.rs", "bins/src/bin/cproxy-client.rs"];
    for file in forbids.into_iter().chain(programs) {
        assert!(read(&workspace().join(file)).contains("#![forbid(unsafe_code)]"), "{file}");
    }
    assert!(read(&workspace().join("runtime-epoll/src/lib.rs")).contains("#![deny(unsafe_code)]"));
    let mut allowed = Vec::new();
    sources(&workspace().join("runtime-epoll/src"), &mut |path, text| {
        if text.contains("(unsafe_code") && !path.ends_with("lib.rs") {
            allowed.push(path.file_name().expect("a name").to_owned());
        }
    });
    allowed.sort();
    assert_eq!(allowed, ["inherit.rs", "mtu.rs", "options.rs", "random.rs", "socket.rs"]);
    let text = read(&workspace().join("SECURITY.md"));
    let unnamed: Vec<_> = allowed.iter().filter(|file| !text.contains(&format!("{}`", file.display()))).collect();
    assert!(unnamed.is_empty(), "SECURITY.md does not name {unnamed:?}");
}

/// What `.ci/deny` does where `cargo` is a script with this body.
fn check_dependencies(cargo: &str, advisories: &str) -> Output {
    let directory = TempDir::new().expect("a temporary directory");
    let script = directory.path().join("cargo");
    fs::write(&script, format!("#!/bin/sh\n{cargo}\n")).expect("write the script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").expect("a PATH"));
    let check = workspace().join(".ci/deny");
    Command::new(check).env("PATH", path).env("ADVISORIES", advisories).output().expect("it runs")
}

#[test]
fn dependencies_that_cannot_be_checked_are_not_passed() {
    arm();
    let check = read(&workspace().join(".ci/deny"));
    let version = check.lines().find_map(|line| line.strip_prefix("version=")).expect("it names its tool's version");
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let another = check_dependencies("case $1 in deny) echo cargo-deny 0.0.1;; install) exit 101;; esac", "");
    assert!(!another.status.success() && said(&another).contains("NOT checked"), "{}", said(&another));

    let pinned = format!("case \"$*\" in *--version) echo cargo-deny {version};; ");
    let no_list = format!("{pinned} *fetch*) exit 1;; esac");
    let output = check_dependencies(&no_list, "");
    assert!(output.status.success() && said(&output).contains("NOT CHECKED: advisories"), "{}", said(&output));
    assert!(!check_dependencies(&no_list, "required").status.success(), "where they are required");

    for found in ["advisories", "licenses bans sources"] {
        let bad = format!("{pinned} *\"check {found}\") exit 1;; esac");
        assert!(!check_dependencies(&bad, "").status.success(), "{found}");
    }
    assert!(check_dependencies(&format!("{pinned} esac"), "required").status.success(), "all is well");
}

fn sources(folder: &Path, each: &mut impl FnMut(&PathBuf, &str)) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, each);
        } else {
            each(&path, &read(&path));
        }
    }
}
