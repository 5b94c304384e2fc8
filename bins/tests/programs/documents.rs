//! The command lines that the documents show are understood: ours by the programs' own flags, Cargo's by what there is
//! in this workspace to be run.

use bins::config::settings::Of;
use bins::flags::{ClientLine, ServerLine, command};
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// README and what it leads to.
fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "examples", "protocol-sm"].map(|folder| workspace().join(folder));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
    files.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect()
}

/// What a document has as code, in blocks or between backticks: a line that ends with a backslash goes on in the next.
fn code(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut block, mut goes_on, mut prose) = (false, false, String::new());
    for line in text.lines() {
        if line.starts_with("```") {
            block = !block;
        } else if block {
            let (line, more) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
            match found.last_mut().filter(|_| goes_on) {
                Some(last) => last.push_str(line),
                None => found.push(line.to_owned()),
            }
            goes_on = more;
        } else {
            prose.push_str(line);
            prose.push(' ');
        }
    }
    found.extend(prose.split('`').skip(1).step_by(2).map(str::to_owned));
    found
}

/// The commands of a line of a shell, without what stands before them: a prompt, variables, another program.
fn commands(line: &str) -> impl Iterator<Item = Vec<&str>> {
    const BEFORE: [&str; 5] = ["$", "#", "sudo", "chrt", "exec"];
    let line = line.split(" #").next().unwrap();
    line.split(['|', ';', '&']).map(|part| {
        let before = |word: &&str| BEFORE.contains(word) || word.contains('=') && !word.starts_with('-');
        let mut words: Vec<_> = part.split_whitespace().skip_while(before).collect();
        // `chrt -b 0 PROGRAM`
        if part.trim_start().starts_with("chrt") {
            words.drain(..2);
        }
        words
    })
}

/// A word that stands for another is made one that can be read; three dots stand for any, or none.
fn filled(words: &[&str]) -> Vec<String> {
    let filled = |word: &&str| word.replace("PORT", "7000").replace("SECONDS", "5").replace("CLIENT", "home");
    words.iter().filter(|word| !word.contains('…')).map(filled).collect()
}

/// Why a command line of ours cannot be read.
fn understood(words: &[&str]) -> Result<(), String> {
    // Shown as what somebody may type who knows another program.
    if words == ["cproxy-client", "local", "8000", "--to", "HOST"] {
        return Ok(());
    }
    let mut program = match words[0] {
        "cproxy-server" => command::<ServerLine>(Of::Server),
        _ => command::<ClientLine>(Of::Client),
    };
    match program.try_get_matches_from_mut(filled(words)) {
        Err(error) if error.use_stderr() => Err(format!("{}: {error}", words.join(" "))),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn has_file(folder: &Path, name: &str) -> bool {
    let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.any(|path| path.ends_with(name) || path.is_dir() && has_file(&path, name))
}

/// What a command line of Cargo's names and is not there.
fn missing(words: &[&str]) -> Vec<String> {
    let mut package = None;
    let mut missing = Vec::new();
    for pair in words.windows(2).take_while(|pair| pair[0] != "--") {
        let (flag, name) = (pair[0], pair[1]);
        let there = match flag {
            "-p" | "--package" => {
                package = Some(name);
                workspace().join(name).join("Cargo.toml").exists()
            }
            "--test" | "--example" | "--bin" => {
                let package = package.unwrap_or("bins");
                let kind = flag.trim_start_matches('-');
                let manifest = fs::read_to_string(workspace().join(package).join("Cargo.toml")).unwrap_or_default();
                let named = manifest.contains(&format!("[[{kind}]]\nname = \"{name}\""));
                let folder = if kind == "bin" { "src/bin".to_owned() } else { format!("{kind}s") };
                let folder = workspace().join(package).join(folder);
                let files = [folder.join(format!("{name}.rs")), folder.join(name).join("main.rs")];
                named || files.iter().any(|file| file.exists())
            }
            // A filter: the tests of one file, wherever it is.
            "end_to_end" if name.ends_with("::") => {
                has_file(&workspace().join("tests/tests"), &format!("{}.rs", name.trim_end_matches("::")))
            }
            _ => true,
        };
        if !there {
            missing.push(format!("{}: there is no {name}", words.join(" ")));
        }
    }
    missing
}

#[test]
fn what_a_command_line_names_must_be_there() {
    assert_eq!(missing(&["cargo", "test", "-p", "bins", "--test", "programs"]), [""; 0]);
    assert_eq!(missing(&["cargo", "test", "-p", "bins", "--test", "nothing"]).len(), 1);
    assert_eq!(missing(&["cargo", "test", "-p", "tests", "--test", "end_to_end", "nothing::"]).len(), 1);
    assert!(understood(&["cproxy-client", "7777", "--cproxy-server", "HOST"]).is_ok());
    assert!(understood(&["cproxy-client", "7777", "--no-such-flag"]).is_err());
}

#[test]
fn command_lines_in_the_documents_are_understood() {
    let (mut ours, mut cargos, mut wrong) = (0, 0, Vec::new());
    for document in documents() {
        for line in code(&fs::read_to_string(&document).unwrap()) {
            for words in commands(&line).filter(|words| !words.is_empty()) {
                let found = match words[0] {
                    "cproxy-server" | "cproxy-client" => {
                        ours += 1;
                        understood(&words).err().into_iter().collect()
                    }
                    "cargo" => {
                        cargos += 1;
                        missing(&words)
                    }
                    _ => Vec::new(),
                };
                wrong.extend(found.into_iter().map(|what| format!("{}: {what}", document.display())));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ours > 25 && cargos > 25, "{ours} of ours and {cargos} of Cargo's were found");
}
