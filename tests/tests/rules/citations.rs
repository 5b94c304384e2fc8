//! Every rule of PROTOCOL.md is cited by its number, twice: by a comment of the code that implements it, and by the test
//! that shows it, in the comment above the test or in the table below. What cannot be is an exception with a reason.
//!
//! `rules.txt` beside this file has a hash of each rule's words. Whoever changes the words looks at the places that
//! cite the rule, which the failing test lists, and then takes the new hashes with
//! `UPDATE_RULES=1 cargo test -p tests --test rules citations`.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use tests::limit::arm;

/// Tests elsewhere, by file and name, and the rules that they show.
const ELSEWHERE: &[(&str, &str, &[&str])] = &[
    ("protocol-sm/src/auth.rs", "a_conn_number_is_taken_once_whatever_the_order", &["P-PROXY-3", "P-ID-1"]),
    ("protocol-sm/src/backoff.rs", "doubles_up_to_the_cap_and_starts_over", &["P-RES-1"]),
    ("protocol-sm/src/conn/client.rs", "c1_a_start_out_of_turn_is_a_violation", &["P-XFER-1"]),
    ("protocol-sm/src/conn/client.rs", "c2_a_fin_that_overtook_its_start_is_kept_once", &["P-FIN-6"]),
    ("protocol-sm/src/conn/client.rs", "c3_done_waits_for_both_halves", &["P-DONE-1"]),
    ("protocol-sm/src/conn/client.rs", "c4_a_refused_transfer_discards_exactly_the_total", &["P-REF-3"]),
    ("protocol-sm/src/conn/server.rs", "v1_epochs_that_would_wrap_retire_the_conn", &["P-ID-5"]),
    ("protocol-sm/src/conn/server.rs", "v2_only_done_and_both_halves_give_the_conn_back", &["P-DONE-2", "P-DONE-3"]),
    ("protocol-sm/src/conn/server.rs", "v3_a_visitor_that_resets_before_the_answer_costs_no_conn", &["P-FIN-14"]),
    ("protocol-sm/src/conn/server.rs", "v3_a_done_that_no_honest_client_sends_is_a_violation", &["P-DONE-4"]),
    (
        "protocol-sm/src/conn/server.rs",
        "v4_a_refusal_ends_both_halves_and_still_accounts_for_what_was_taken",
        &["P-REF-2"],
    ),
    (
        "protocol-sm/src/conn/server.rs",
        "v5_a_visitor_goes_elsewhere_only_if_its_start_was_never_seen",
        &["P-STALE-2", "P-STALE-5", "P-STALE-6"],
    ),
    ("protocol-sm/src/conn/server.rs", "v5_a_start_that_was_answered_was_seen", &["P-STALE-6"]),
    (
        "protocol-sm/src/ping_pace.rs",
        "g1_conns_that_die_halve_it_down_to_the_shortest_and_it_is_said_once",
        &["P-POOL-10"],
    ),
    ("protocol-sm/src/transfer/egress.rs", "e4_no_more_is_taken_than_is_kept_until_it_is_released", &["P-STALE-4"]),
    ("protocol-sm/src/control/server/tests.rs", "k1_each_registration_is_answered_once", &["P-TUN-1", "P-TUN-4"]),
    ("protocol-sm/src/control/server/tests.rs", "k3_failures_are_shared_among_those_that_asked", &["P-POOL-3"]),
    ("protocol-sm/src/driver/listener/unnamed/tests.rs", "where_too_many_wait_the_first_makes_room", &["P-FRONT-4"]),
    ("protocol-sm/src/pool.rs", "p1_visitors_wait_in_order", &["P-POOL-5"]),
    ("protocol-sm/src/pool.rs", "p3_a_client_that_cannot_is_asked_again_later", &["P-POOL-4"]),
    ("protocol-sm/src/pool.rs", "p3_asks_are_bounded", &["P-POOL-4", "P-LIM-1"]),
    ("protocol-sm/src/session.rs", "s1_a_replay_closes_exactly_the_gap", &["P-SESS-1", "P-SESS-2", "P-SESS-5"]),
    (
        "protocol-sm/tests/codec_alloc.rs",
        "lengths_reserve_nothing_and_partial_frames_little",
        &["P-FRAME-2", "P-LIM-1"],
    ),
    (
        "protocol-sm/src/transfer/end.rs",
        "only_a_reset_may_come_behind_a_shut_end_and_only_once",
        &["P-FIN-5", "P-FIN-11"],
    ),
    (
        "protocol-sm/src/transfer/ingress.rs",
        "what_a_lost_socket_was_not_given_is_dropped_and_still_accounted_for",
        &["P-FIN-10"],
    ),
    ("protocol-sm/src/transfer/ingress.rs", "i4_a_reset_waits_for_what_was_sent_before_it", &["P-FIN-13"]),
    ("protocol-sm/src/transfer/linger.rs", "l1_nothing_unacknowledged_is_reset_at_once", &["P-FIN-13"]),
    (
        "protocol-sm/src/transfer/mod.rs",
        "t5_a_failed_write_says_nothing_about_what_can_still_be_read",
        &["P-FIN-8", "P-FIN-9"],
    ),
    ("protocol-sm/src/transfer/mod.rs", "t6_a_reset_of_the_peers_socket_ends_the_own_half", &["P-FIN-12"]),
    ("protocol-sm/src/turns.rs", "t1_owners_take_turns_however_much_one_has", &["P-LIM-4"]),
    ("protocol-sm/tests/unacknowledged.rs", "a_peer_that_acknowledges_nothing_is_given_up", &["P-SESS-7"]),
    ("protocol-sm/tests/vectors.rs", "handshakes_are_accepted_and_spoilt_ones_are_not", &["P-AUTH-7", "P-AUTH-8"]),
    (
        "protocol-sm/tests/vectors.rs",
        "handshakes_prove_what_the_formulas_say",
        &["P-AUTH-2", "P-AUTH-5", "P-AUTH-6", "P-EVO-5"],
    ),
    ("protocol-sm/tests/vectors.rs", "invalid_frames_are_refused_as_written", &["P-FRAME-2", "P-FRAME-3", "P-ENC-3"]),
    ("protocol-sm/tests/vectors.rs", "messages_encode_and_decode_as_written", &["P-FRAME-1", "P-ENC-1"]),
    ("protocol-sm/tests/vectors.rs", "nothing_decodes_behind_the_first_unknown_numbers", &["P-EVO-1", "P-EVO-3"]),
    ("protocol-sm/tests/vectors.rs", "prefaces_are_read_and_refused_as_written", &["P-PREF-1", "P-PREF-4", "P-EVO-4"]),
    ("protocol-sm/tests/vectors.rs", "streams_are_cut_alike_at_every_split", &["P-FRAME-4", "P-XFER-6"]),
    ("protocol-sm/tests/vectors.rs", "varints_are_those_of_the_messages", &["P-ENC-2"]),
    (
        "protocol-sm/src/wire/tls.rs",
        "our_clients_hello_is_known_by_its_name_at_any_split_and_others_are_not",
        &["P-TLS-5"],
    ),
    ("runtime-epoll/src/tls/session/tests.rs", "a_peer_that_names_no_protocol_or_another_is_refused", &["P-TLS-1"]),
    (
        "runtime-epoll/src/tls/session/tests.rs",
        "a_plain_server_is_recognised_and_a_plain_client_is_passed_on",
        &["P-TLS-4", "P-TLS-6"],
    ),
    ("runtime-epoll/src/tls/session/tests.rs", "an_end_without_a_goodbye_is_a_reset", &["P-TLS-7"]),
    (
        "runtime-epoll/tests/sockets.rs",
        "an_ipv6_listener_on_any_address_takes_ipv4_visitors_and_names_them_so",
        &["P-ENC-4"],
    ),
    ("runtime-epoll/src/sys/options.rs", "no_limit_of_the_kernel_ends_what_the_protocol_would_keep", &["P-XFER-10"]),
    (
        "runtime-epoll/tests/sockets.rs",
        "every_role_has_its_options_whichever_way_the_connection_came_about",
        &["P-CONN-3"],
    ),
    ("tests/tests/bulk.rs", "large_data_both_ways_at_once", &["P-XFER-5"]),
    ("tests/tests/ctl_loss.rs", "after_the_grace_time_everything_is_released", &["P-RES-6", "P-END-2", "P-TUN-7"]),
    ("tests/tests/ctl_loss.rs", "ends_that_nobody_could_tell_are_told_after_the_resume", &["P-RES-3", "P-RES-4"]),
    ("tests/tests/ctl_loss.rs", "visitors_who_come_meanwhile_are_served", &["P-PROXY-6", "P-TUN-7"]),
    (
        "tests/tests/frozen_peer.rs",
        "a_frozen_clients_visitors_are_reset_and_its_port_released",
        &["P-LIVE-2", "P-RES-6"],
    ),
    (
        "tests/tests/frozen_peer.rs",
        "a_transfer_outlives_a_freeze_that_costs_its_client_the_port",
        &["P-RES-6", "P-RES-8"],
    ),
    ("tests/tests/frozen_peer.rs", "a_newcomer_takes_only_the_port_of_a_frozen_client", &["P-REPL-6", "P-RES-8"]),
    ("tests/tests/killed.rs", "a_client_that_comes_back_with_another_tunnel_has_its_old_port_at_once", &["P-REPL-6"]),
    (
        "tests/tests/killed.rs",
        "a_client_that_has_waited_for_a_port_does_not_take_it_while_the_other_is_cut_off",
        &["P-REPL-6"],
    ),
    ("tests/tests/killed.rs", "ports_of_a_client_that_does_not_come_back_are_released", &["P-END-2", "P-END-3"]),
    ("tests/tests/status.rs", "a_client_that_is_kicked_loses_everything_and_says_so", &["P-END-4"]),
    (
        "tests/tests/status.rs",
        "a_port_that_is_closed_takes_no_more_visitors_until_the_clients_next_session",
        &["P-TUN-14"],
    ),
    ("tests/tests/limits.rs", "a_half_open_stream_without_progress_is_reset", &["P-XFER-9"]),
    (
        "tests/tests/kernel_surprises.rs",
        "a_cut_longer_than_the_kernels_patience_costs_no_transfer_while_the_session_may_be_resumed",
        &["P-XFER-10"],
    ),
    ("tests/tests/limits.rs", "whoever_waits_too_long_is_reset", &["P-POOL-5"]),
    ("tests/tests/lost_idle_conn.rs", "conns_that_went_silent_are_found_by_pings_and_replaced", &["P-POOL-6"]),
    ("protocol-sm/src/reconnect.rs", "b2_a_session_that_waits_is_tried_for_often_enough", &["P-RES-7"]),
    ("tests/tests/never_gives_up.rs", "a_wrong_token_ends_no_client_that_has_worked", &["P-RES-7"]),
    ("tests/tests/never_gives_up.rs", "another_key_of_the_server_ends_no_client_that_has_worked", &["P-RES-7"]),
    ("tests/tests/never_gives_up.rs", "one_tunnel_that_is_refused_leaves_the_others_alone", &["P-TUN-4"]),
    ("tests/tests/netns.rs", "a_stranger_from_another_machine_needs_a_token", &["P-AUTH-3"]),
    ("tests/tests/rates.rs", "a_tunnels_max_connections_are_its_own_over_all_event_loops", &["P-TUN-9"]),
    ("tests/tests/rates.rs", "an_address_that_comes_too_often_is_reset_and_no_other", &["P-TUN-9"]),
    ("tests/tests/source_lists.rs", "a_client_narrows_one_tunnel_and_no_other", &["P-TUN-8"]),
    ("tests/tests/source_lists.rs", "ipv4_visitors_of_an_ipv6_listener_are_ipv4", &["P-TUN-8"]),
    ("tests/tests/source_lists.rs", "the_servers_lists_decide_who_visits", &["P-TUN-8"]),
    ("tests/tests/floods.rs", "one_address_takes_no_room_from_another", &["P-AUTH-12", "P-LIM-1"]),
    ("tests/tests/floods.rs", "where_all_room_is_taken_the_greediest_makes_room", &["P-AUTH-12", "P-LIM-1"]),
    ("protocol-sm/src/rate.rs", "memory_is_bounded_and_full_buckets_are_forgotten", &["P-LIM-1"]),
    ("protocol-sm/src/sources.rs", "networks_hold_what_shares_their_first_bits", &["P-ENC-5"]),
    ("tests/tests/resets.rs", "a_reset_after_one_direction_ended_well_is_still_a_reset", &["P-ABORT-5"]),
    ("tests/tests/rules/server/transfers.rs", "aborts_reset_and_are_not_answered", &["P-ABORT-7"]),
    ("tests/tests/reuse.rs", "nothing_of_a_visit_shows_in_the_next", &["P-CONN-2", "P-ABORT-3"]),
    ("tests/tests/reuse.rs", "the_pool_is_replenished_and_shrinks_again", &["P-POOL-4", "P-POOL-8"]),
    ("tests/tests/several_clients.rs", "streams_of_several_clients_do_not_mix", &["P-XFER-5"]),
    ("tests/tests/slow_reader.rs", "a_paused_service_stops_only_its_own_upload", &["P-CONN-4", "P-XFER-7"]),
    ("tests/tests/slow_reader.rs", "a_paused_visitor_stops_only_its_own_download", &["P-CONN-4", "P-XFER-7"]),
    ("tests/tests/strangers.rs", "garbage_on_either_port_is_dropped", &["P-PREF-4", "P-AUTH-10"]),
    ("tests/tests/strangers.rs", "half_finished_handshakes_leave_room_for_honest_ones", &["P-AUTH-12"]),
    ("tests/tests/strangers.rs", "silent_and_dribbling_connections_are_closed_in_time", &["P-AUTH-12"]),
    ("tests/tests/stale_conns.rs", "a_router_that_answers_with_resets_costs_no_visitor", &["P-STALE-1", "P-STALE-7"]),
    ("tests/tests/stale_conns.rs", "a_router_that_drops_silently_costs_no_visitor", &["P-STALE-2", "P-STALE-5"]),
    ("tests/tests/tls.rs", "clients_show_certificates_where_the_server_wants_them", &["P-TLS-3"]),
    ("tests/tests/tls.rs", "servers_are_known_by_a_pin_that_outlives_restarts", &["P-TLS-2"]),
    ("tests/tests/tls.rs", "servers_are_known_by_an_authority_and_a_name", &["P-TLS-2"]),
    ("tests/tests/tls.rs", "what_each_says_to_the_other_in_the_clear", &["P-TLS-4", "P-TLS-5"]),
];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this package")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rules that `text` names.
fn rules_in(text: &str) -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for (at, _) in text.match_indices("P-") {
        let rest = &text[at + 2..];
        let name: String = rest.chars().take_while(char::is_ascii_uppercase).collect();
        let digits = rest[name.len()..].strip_prefix('-').unwrap_or("");
        let number: String = digits.chars().take_while(char::is_ascii_digit).collect();
        if !name.is_empty() && !number.is_empty() {
            rules.insert(format!("P-{name}-{number}"));
        }
    }
    rules
}

/// The rules that PROTOCOL.md states, and their words.
fn stated() -> BTreeMap<String, String> {
    statements(&read(&workspace().join("protocol-sm/PROTOCOL.md")))
}

/// The rules of a document: items of a list that begin with their number. An item ends where a line is not indented.
fn statements(text: &str) -> BTreeMap<String, String> {
    let mut rules: BTreeMap<String, String> = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        let item = line.strip_prefix("- **").and_then(|rest| rest.split_once("**"));
        if let Some((number, words)) = item.filter(|(number, _)| rules_in(number).len() == 1) {
            let before = rules.insert(number.to_owned(), words.trim().to_owned());
            assert_eq!(before, None, "{number} is stated once");
            current = Some(number.to_owned());
        } else if !line.is_empty() && !line.starts_with("  ") {
            current = None;
        } else if let Some(words) = current.as_ref().and_then(|number| rules.get_mut(number)) {
            words.extend([" ", line.trim()]);
        }
    }
    rules.into_iter().map(|(number, words)| (number, words.trim().to_owned())).collect()
}

/// What a citation says of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// This code does what the rule says.
    Implementation,
    /// This test shows it.
    Test,
}

/// Rules that one kind of citation is missing for, and why there can be none.
const EXCEPTIONS: &[(&str, Kind, &str)] = &[];

/// All citations: the rule, the kind, and where.
fn citations() -> Vec<(String, Kind, String)> {
    let mut found = Vec::new();
    for (path, text) in texts(&["protocol-sm", "runtime-epoll", "runtime-sim", "bins", "fuzz", "tests"]) {
        let place = path.strip_prefix(workspace()).expect("below it").display().to_string();
        let code = ["protocol-sm/src", "runtime-epoll/src", "bins/src"].iter().any(|code| place.starts_with(code));
        if code && !path.ends_with("tests.rs") {
            for (line, comment) in comments_of_code(&text) {
                let at = format!("{place}:{line}");
                found.extend(rules_in(comment).into_iter().map(|rule| (rule, Kind::Implementation, at.clone())));
            }
        }
        for (test, comment) in comments_of_tests(&text) {
            let at = format!("{place}, {test}");
            found.extend(rules_in(&comment).into_iter().map(|rule| (rule, Kind::Test, at.clone())));
        }
    }
    for (file, test, rules) in ELSEWHERE {
        found.extend(rules.iter().map(|&rule| (rule.to_owned(), Kind::Test, format!("{file}, {test}"))));
    }
    found
}

/// What stands in comments directly above tests, with the names of those.
fn comments_of_tests(text: &str) -> Vec<(String, String)> {
    let (mut comment, mut is_test, mut found) = (String::new(), false, Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("///") {
            comment += more;
        } else if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            let name = rest.split('(').next().unwrap_or_default();
            found.push((name.to_owned(), std::mem::take(&mut comment)));
            is_test = false;
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

#[test]
fn every_rule_has_its_implementation_and_its_test() {
    arm();
    let stated = stated();
    assert!(stated.len() > 100, "only {} rules found", stated.len());
    let cited: BTreeSet<_> = citations().into_iter().map(|(rule, kind, _)| (rule, kind)).collect();
    let excepted: BTreeSet<_> = EXCEPTIONS.iter().map(|&(rule, kind, _)| (rule.to_owned(), kind)).collect();
    let missing: Vec<_> = stated
        .keys()
        .flat_map(|rule| [Kind::Implementation, Kind::Test].map(|kind| (rule.clone(), kind)))
        .filter(|citation| !cited.contains(citation) && !excepted.contains(citation))
        .collect();
    assert!(missing.is_empty(), "rules that nothing cites: {missing:?}");
    let needless: Vec<_> = excepted.intersection(&cited).collect();
    assert!(needless.is_empty(), "exceptions that are none: {needless:?}");
    assert!(EXCEPTIONS.iter().all(|(rule, _, reason)| stated.contains_key(*rule) && !reason.is_empty()));
}

/// A rule's number and the hash of its words, one a line.
fn hashes(rules: &BTreeMap<String, String>) -> String {
    rules.iter().fold(String::new(), |lines, (rule, words)| {
        let hash = Sha256::digest(words.as_bytes());
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        lines + &format!("{rule} {hash}\n")
    })
}

#[test]
fn nobody_rewords_a_rule_without_a_look_at_what_cites_it() {
    arm();
    let path = workspace().join("tests/tests/rules/rules.txt");
    let stated = stated();
    let now = hashes(&stated);
    if std::env::var_os("UPDATE_RULES").is_some() {
        fs::write(&path, now).expect("write the hashes");
        return;
    }
    let before = read(&path);
    let before: BTreeSet<_> = before.lines().collect();
    let changed: Vec<_> = now.lines().filter(|line| !before.contains(line)).collect();
    let changed: BTreeSet<_> = changed.iter().filter_map(|line| line.split(' ').next()).collect();
    let mut places: Vec<_> = citations().into_iter().filter(|(rule, ..)| changed.contains(&**rule)).collect();
    places.sort();
    let places: String = places.iter().map(|(rule, kind, at)| format!("\n  {rule}, {kind:?}: {at}")).collect();
    let gone = before.iter().filter_map(|line| line.split(' ').next()).filter(|&rule| !stated.contains_key(rule));
    let gone: Vec<_> = gone.collect();
    assert!(
        changed.is_empty() && gone.is_empty(),
        "new or other words in PROTOCOL.md for {changed:?}; gone: {gone:?}. Do these places still do what the rules say? \
         {places}\nThen: UPDATE_RULES=1 cargo test -p tests --test rules citations"
    );
}

#[test]
fn a_rules_words_end_where_the_item_ends() {
    arm();
    let text = "- **P-A-1** One\n  and more.\n\n  | still | it |\n- **P-A-2** Two.\n\nNo rule: P-A-3.\n  Neither.\n";
    let rules: Vec<_> = statements(text).into_iter().collect();
    let expected = [("P-A-1", "One and more.  | still | it |"), ("P-A-2", "Two.")];
    assert_eq!(rules, expected.map(|(rule, words)| (rule.to_owned(), words.to_owned())));
    let reworded = statements(&text.replace("Two", "Too"));
    let (before, after) = (hashes(&statements(text)), hashes(&reworded));
    assert_eq!((before.lines().next(), before == after), (after.lines().next(), false));
}

#[test]
fn the_tests_cited_from_here_are_there() {
    arm();
    let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (file, test, _) in ELSEWHERE {
        let path = workspace().join(file);
        let text = texts.entry(path.clone()).or_insert_with(|| read(&path));
        assert!(text.contains(&format!("fn {test}()")), "{file} has no test `{test}`");
    }
}

/// The source files below these folders, and what is in them.
fn texts(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    folders.iter().for_each(|folder| sources(&workspace().join(folder), &mut found));
    found.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The source files below `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "py") {
            found.push(path);
        }
    }
}

/// Rules that anything names are rules that there are.
#[test]
fn citations_name_rules() {
    arm();
    let stated = stated();
    let texts = texts(&["protocol-sm", "runtime-epoll", "runtime-sim", "bins", "fuzz", "tests"]);
    let unknown: BTreeSet<_> = texts
        .iter()
        .filter(|(path, _)| !path.ends_with("rules/citations.rs"))
        .flat_map(|(_, text)| rules_in(text))
        .chain(ELSEWHERE.iter().flat_map(|(_, _, rules)| rules.iter().map(|&rule| rule.to_owned())))
        .filter(|rule| !stated.contains_key(rule))
        .collect();
    assert!(unknown.is_empty(), "cited and not in PROTOCOL.md: {unknown:?}");
}

/// The comments of a file that stand outside of its tests, which come last, and their lines' numbers.
fn comments_of_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let test = |at: &usize| text[..*at].ends_with('\n') && text[*at..].starts_with("#[cfg(test)]\nmod ");
    let end = text.match_indices("#[cfg(test)]").map(|(at, _)| at).find(test).unwrap_or(text.len());
    let lines = (1..).zip(text[..end].lines());
    lines.filter_map(|(number, line)| line.split_once("//").map(|(_, comment)| (number, comment)))
}

#[test]
fn comments_are_told_apart() {
    arm();
    let text =
        "/// P-FIN-1\nlet x = 1; // P-FIN-2\nlet s = \"P-FIN-3\";\n#[cfg(test)]\nmod tests {\n    // P-FIN-4\n}\n";
    let cited: BTreeSet<_> = comments_of_code(text).flat_map(|(_, comment)| rules_in(comment)).collect();
    assert_eq!(cited, ["P-FIN-1", "P-FIN-2"].map(String::from).into());
    let text = "/// P-FIN-1:\n/// and P-FIN-2.\n#[test]\nfn one() {}\n\n/// P-FIN-3\nfn helper() {}\n\n// P-FIN-4\n#[test]\nfn two() {}\n";
    let found = comments_of_tests(text);
    let cited: BTreeSet<_> = found.iter().flat_map(|(_, comment)| rules_in(comment)).collect();
    assert_eq!(found.iter().map(|(test, _)| &**test).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(cited, ["P-FIN-1", "P-FIN-2"].map(String::from).into());
}
