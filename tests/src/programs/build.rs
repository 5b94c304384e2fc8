//! Where the programs are: beside the test executable, built if they are missing, older than their sources, or
//! another work tree's. `CPROXY_BIN_DIR` names another directory to take them from, as they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PROGRAMS: [&str; 2] = ["cproxy-server", "cproxy-client"];

/// Where the programs are, built if need be.
#[must_use]
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(given) = std::env::var_os("CPROXY_BIN_DIR") {
            // Cargo runs tests in their package's directory: a relative path is meant from the workspace.
            return workspace().join(given);
        }
        let test = std::env::current_exe().expect("this executable's path");
        let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned();
        if !PROGRAMS.iter().all(|name| is_fresh(&profile.join(name), workspace())) {
            crate::limit::unlimited(|| build(&profile));
        }
        profile
    })
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this package")
}

/// Whether a program was built from `workspace`, and after all its sources, which Cargo lists in a file beside it. A
/// target folder that was copied, or that several work trees share, may hold programs of other sources.
fn is_fresh(program: &Path, workspace: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let (Some(built), Ok(list)) = (modified(program), std::fs::read_to_string(program.with_extension("d"))) else {
        return false;
    };
    let sources = list.split_once(": ").map_or("", |(_, sources)| sources).replace("\\ ", "\0");
    let mut sources = sources.split_whitespace().map(|source| PathBuf::from(source.replace('\0', " "))).peekable();
    let up_to_date = |source: PathBuf| source.starts_with(workspace) && modified(&source).is_some_and(|at| at <= built);
    sources.peek().is_some() && sources.all(up_to_date)
}

fn build(profile_dir: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let profile = profile_dir.file_name().and_then(|name| name.to_str()).expect("a profile's directory");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package=bins", "--bins"])
        .arg(format!("--profile={}", if profile == "debug" { "dev" } else { profile }))
        .arg("--target-dir")
        .arg(profile_dir.parent().expect("the target directory"))
        .current_dir(workspace())
        .status();
    assert!(status.expect("run cargo").success(), "cargo could not build the programs");
    for program in PROGRAMS.map(|name| profile_dir.join(name)) {
        assert!(is_fresh(&program, workspace()), "{}: Cargo left a program of other sources there", program.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;
    use tempfile::TempDir;

    #[test]
    fn a_program_older_than_a_source_is_built_anew() {
        let directory = TempDir::new().unwrap();
        let (program, source) = (directory.path().join("p"), directory.path().join("a b.rs"));
        let at = |path: &Path, seconds| {
            let file = std::fs::File::create(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        at(&source, 10);
        at(&program, 10);
        assert!(!is_fresh(&program, directory.path()), "without a list of sources nothing is known");
        let list = format!("{}: {}\n", program.display(), source.to_str().unwrap().replace(' ', "\\ "));
        std::fs::write(program.with_extension("d"), list).unwrap();
        assert!(is_fresh(&program, directory.path()));
        at(&source, 11);
        assert!(!is_fresh(&program, directory.path()));
        std::fs::remove_file(&source).unwrap();
        assert!(!is_fresh(&program, directory.path()), "a source that is gone is no longer the program's");
    }

    #[test]
    fn a_program_of_another_work_tree_is_built_anew() {
        let directory = TempDir::new().unwrap();
        let here = directory.path().join("here");
        let there = directory.path().join("there");
        let listing = |program: &str, sources: [&Path; 2]| {
            let program = directory.path().join(program);
            std::fs::write(&program, "").unwrap();
            let sources = sources.map(|tree| tree.join("main.rs").to_str().unwrap().to_owned());
            std::fs::write(program.with_extension("d"), format!("{}: {}\n", program.display(), sources.join(" ")))
                .unwrap();
            program
        };
        for tree in [&here, &there] {
            std::fs::create_dir(tree).unwrap();
            std::fs::write(tree.join("main.rs"), "").unwrap();
        }
        assert!(is_fresh(&listing("ours", [&here, &here]), &here));
        assert!(!is_fresh(&listing("theirs", [&there, &there]), &here));
        assert!(!is_fresh(&listing("both", [&here, &there]), &here));
    }
}
