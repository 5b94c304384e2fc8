//! The programs in containers of the shipped image, by podman. Needs root, podman and crun, and says so where it is
//! skipped.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use tests::limit::arm;
use tests::programs;

/// What `rows.sh` says of each thing that it has tried.
const ROWS: [&str; 4] = [
    "served, healthy, and not as root: an image from scratch, without a shell, a machine-id and /dev/urandom",
    "killed and made anew under another host name: it has its port before its old session has lost it",
    "stopped, with a visitor there, before the runtime kills",
    "without a server its health is 1",
];

#[test]
fn an_image_from_scratch_will_do() {
    if !allowed() {
        return;
    }
    arm();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("containers/rows.sh");
    let ran = Command::new(script).arg(programs::directory()).output().expect("run the script");
    let said = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}\n{errors}");
    for row in ROWS {
        assert!(said.lines().any(|line| line == row), "{row}:\n{said}\n{errors}");
    }
}

fn allowed() -> bool {
    let there =
        |words: &[&str]| Command::new(words[0]).args(&words[1..]).output().is_ok_and(|probe| probe.status.success());
    let needs = [
        (&["unshare", "--mount", "--net", "true"][..], "root"),
        (&["podman", "--version"], "podman"),
        (&["crun", "--version"], "crun"),
        (&["curl", "--version"], "curl"),
        (&["python3", "--version"], "python3"),
    ];
    let missing = needs.into_iter().find(|(words, _)| !there(words));
    if let Some((_, what)) = missing {
        let _ = writeln!(std::io::stderr(), "SKIPPED an_image_from_scratch_will_do: needs {what}");
    }
    missing.is_none()
}
