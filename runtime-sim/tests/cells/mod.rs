//! Each meeting of a conn's state with an event that honest peers can bring about, as `cells.txt` lists them.
//! `UPDATE_CELLS=1` adds what was met for the first time.

use protocol_sm::cells::seen;
use std::collections::BTreeSet;

/// Behind a meeting that is too rare for ring 3: the choice tapes of ring 2 find it.
const RARE: &str = " (tapes)";
/// Behind one that a campaign meets now and then: in as many seeds as a test run has, it is there or not.
const SELDOM: &str = " (seldom)";

/// Nothing else was met; and everything that this ring must meet was. `rare`: it is ring 2.
pub(super) fn check(rare: bool) {
    let found: BTreeSet<_> = seen().iter().map(ToString::to_string).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cells/cells.txt");
    let listed = std::fs::read_to_string(path).expect("the list is there");
    let mut lines: BTreeSet<_> = listed.lines().map(str::to_owned).collect();
    let is_listed = |cell: &str| ["", RARE, SELDOM].iter().any(|mark| lines.contains(&format!("{cell}{mark}")));
    let new: Vec<_> = found.iter().filter(|cell| !is_listed(cell)).cloned().collect();
    if std::env::var_os("UPDATE_CELLS").is_some() {
        lines.extend(new.iter().map(|cell| if rare { format!("{cell}{RARE}") } else { cell.clone() }));
        std::fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    } else {
        assert!(new.is_empty(), "not in cells.txt: {new:#?}");
    }
    let due = lines.iter().filter(|line| !line.ends_with(SELDOM)).filter_map(|line| match line.strip_suffix(RARE) {
        Some(cell) => rare.then_some(cell),
        None => (!rare).then_some(line.as_str()),
    });
    let never: Vec<_> = due.filter(|cell| !found.contains(*cell)).collect();
    assert!(never.is_empty(), "never met: {never:#?}");
    println!("{} meetings of states of conns with events, of {} that are known", found.len(), lines.len());
}
