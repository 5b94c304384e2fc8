//! The Debian package under a real dpkg and systemd: installed, started, upgraded with a tunnel running, removed, purged.
//! Its programs are those of this build. Needs root, systemd-nspawn, dpkg and cargo-deb, and says so where it is skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tests::limit::{arm, unlimited};
use tests::programs;
use tests::systemd::Machine;

const VISIT: &str =
    "bash -c 'exec 3<>/dev/tcp/127.0.0.1/6000 && printf \"GET /who HTTP/1.0\\r\\n\\r\\n\" >&3 && cat <&3'";

fn there(words: &[&str]) -> bool {
    Command::new(words[0]).args(&words[1..]).output().is_ok_and(|probe| probe.status.success())
}

fn skipped(what: &str, needs: &str) {
    let _unread = writeln!(std::io::stderr(), "SKIPPED {what}: needs {needs}");
}

/// Makes the package of this revision.
fn package(out: &Path, revision: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bins/dist/make");
    let mut make = Command::new(script);
    make.arg("deb").env("OUT", out).env("REVISION", revision).env("BINARIES", programs::directory());
    let made = unlimited(|| make.output().expect("run the script"));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&[made.stdout, made.stderr].concat()));
    let file = out.join(format!("cproxy_0.1.0-{revision}_amd64.deb"));
    assert!(file.exists(), "{}", file.display());
    file
}

#[test]
fn a_package_is_installed_upgraded_with_a_tunnel_running_removed_and_purged() {
    const NAME: &str = "a_package_is_installed_upgraded_with_a_tunnel_running_removed_and_purged";
    for (words, needs) in [
        (&["dpkg-deb", "--version"][..], "dpkg"),
        (&["dpkg-shlibdeps", "--version"], "dpkg-dev"),
        (&["cargo", "deb", "--version"], "cargo-deb (cargo install cargo-deb)"),
    ] {
        if !there(words) {
            return skipped(NAME, needs);
        }
    }
    arm();
    let Some(machine) = Machine::boot(&[]) else { return };
    // In this workspace: what is mounted over /tmp inside hides this machine's.
    let out = TempDir::new_in(programs::directory()).expect("a temporary directory");
    let (first, second) = (package(out.path(), "1"), package(out.path(), "2"));
    if there(&["lintian", "--version"]) {
        let lintian = Command::new("lintian").args(["--fail-on", "error,warning", "--allow-root"]).arg(&first).output();
        let lintian = lintian.expect("lintian");
        assert!(lintian.status.success(), "{}", String::from_utf8_lossy(&[lintian.stdout, lintian.stderr].concat()));
    } else {
        skipped("lintian", "lintian");
    }

    // As a machine is on which nothing was installed by hand.
    machine.must("rm -r /usr/local/bin/cproxy-* /etc/systemd/system/cproxy-* /etc/cproxy && systemctl daemon-reload");
    // That of an image for containers keeps packages from restarting anything.
    machine.must("rm -f /usr/sbin/policy-rc.d");
    machine.must(&format!("dpkg --install {}", first.display()));
    assert_eq!(machine.must("stat -c '%a %U' /etc/cproxy/token").trim(), "600 root");
    for unit in ["cproxy-server", "cproxy-client"] {
        assert!(!machine.run(&format!("systemctl is-active {unit}")).succeeded, "{unit} starts unasked");
        machine.must(&format!("man --where {unit} && test -s /usr/share/bash-completion/completions/{unit}"));
    }

    // One line of one file, and both run.
    machine.must("sed -i 's,^server = .*,server = \"127.0.0.1:8080\",; s,:8000,:7777,; s,^# public_port.*,public_port = 6000,' /etc/cproxy/client.toml");
    machine.must("mkdir /srv/web && echo from a package > /srv/web/who");
    machine.must("systemd-run -q python3 -m http.server 7777 --bind 127.0.0.1 --directory /srv/web");
    machine.must("systemctl enable --now cproxy-server cproxy-client");
    machine.until_says("journalctl -o cat -u cproxy-client", "Forwarding tcp://127.0.0.1:6000");
    assert!(machine.must(VISIT).contains("from a package"));
    machine.must("cproxy-client doctor --config /etc/cproxy/client.toml --token-file /etc/cproxy/token");
    machine.must("cproxy-server doctor --config /etc/cproxy/server.toml --token-file /etc/cproxy/token");

    // Another release: both run the new program, with the same token, and the tunnel is there again.
    let pid = |unit: &str| machine.must(&format!("systemctl show -P MainPID {unit}"));
    let before = (pid("cproxy-server"), pid("cproxy-client"));
    let token = machine.must("cat /etc/cproxy/token");
    machine.must(&format!("dpkg --install {}", second.display()));
    machine.until_says(VISIT, "from a package");
    assert!(pid("cproxy-server") != before.0 && pid("cproxy-client") != before.1, "restarted: {}", machine.journal());
    assert_eq!(machine.must("cat /etc/cproxy/token"), token);
    assert!(machine.must("cat /etc/cproxy/client.toml").contains("public_port = 6000"), "what was edited stays");

    machine.must("dpkg --remove cproxy");
    assert!(!machine.run("systemctl is-active cproxy-server").succeeded && !machine.run(VISIT).succeeded);
    machine.must("test ! -e /usr/bin/cproxy-server && test -s /etc/cproxy/token && test -s /etc/cproxy/client.toml");
    machine.must("dpkg --purge cproxy");
    machine.must("test ! -e /etc/cproxy && test ! -e /var/lib/cproxy && test ! -e /var/lib/private/cproxy");
    assert!(!machine.must("find /etc/systemd/system").contains("cproxy"));
}
