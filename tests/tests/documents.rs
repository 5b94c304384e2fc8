//! What the documents point at is there: files that they name, and links.

use std::fs;
use std::path::{Path, PathBuf};
use tests::limit::arm;

/// What a path in a document ends with; without one of these it has a slash and begins with a folder of the repository.
const ENDINGS: [&str; 7] = [".rs", ".md", ".toml", ".txt", ".json", ".py", ".sh"];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this package")
}

/// All files and folders below `folder`, but for what is built or hidden.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
        let skipped = name == "target" || name.starts_with('.') && name != ".ci";
        if !skipped {
            found.push(path.strip_prefix(workspace()).expect("below it").to_owned());
            if path.is_dir() {
                collect(&path, found);
            }
        }
    }
}

/// What stands in backticks on one line.
fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Where the links of a line lead.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to)
}

#[test]
fn the_files_that_the_documents_name_are_there() {
    arm();
    let mut files = Vec::new();
    collect(workspace(), &mut files);
    let roots: Vec<_> = files.iter().filter(|path| path.components().count() == 1).collect();
    let mut checked = 0;
    let mut missing = Vec::new();
    for document in files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        let text = fs::read_to_string(workspace().join(document)).expect("text");
        for (line, number) in text.lines().zip(1..) {
            for name in code(line) {
                let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
                let ours = roots.iter().any(|root| name.contains('/') && Path::new(name).starts_with(root));
                let ending = ENDINGS.iter().any(|ending| name.ends_with(ending)) && !name.starts_with('/');
                if plain && (ours || ending) {
                    checked += 1;
                    if !files.iter().any(|file| file.ends_with(name)) {
                        missing.push(format!("{}:{number}: {name}", document.display()));
                    }
                }
            }
            for link in links(line).filter(|link| !link.contains("://") && !link.starts_with('#')) {
                checked += 1;
                let to = link.split('#').next().expect("before it");
                let from = document.parent().expect("a folder");
                if !workspace().join(from).join(to).exists() {
                    missing.push(format!("{}:{number}: a link to {to}", document.display()));
                }
            }
        }
    }
    assert!(checked > 100, "only {checked} are named");
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

/// Those that are drawn from nothing but the script; the recording of a terminal needs the programs.
#[test]
fn the_pictures_are_what_their_script_draws() {
    arm();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let pictures = workspace().join("docs/pictures");
    fs::copy(pictures.join("make.py"), folder.path().join("make.py")).expect("a copy");
    let drawn = std::process::Command::new("python3").arg(folder.path().join("make.py")).status();
    if drawn.is_err() {
        use std::io::Write;
        let _unread = writeln!(std::io::stderr(), "SKIPPED the_pictures_are_what_their_script_draws: needs python3");
        return;
    }
    assert!(drawn.is_ok_and(|status| status.success()), "make.py failed");
    for name in ["visit.svg", "house.svg"] {
        let [committed, new] = [&pictures, folder.path()].map(|folder| fs::read_to_string(folder.join(name)));
        assert!(committed.expect("a picture") == new.expect("a picture"), "{name}: run docs/pictures/make.py");
    }
}
