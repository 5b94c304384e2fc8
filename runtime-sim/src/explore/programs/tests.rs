//! What the explorations found once, as paths of their own.

use super::parties::drive;
use super::*;
use crate::explore::net::{LOCAL_PORT, Told};
use protocol_sm::driver::{Cx, Lookup};

/// Found by ring 4, seed 3392: only a visitor who was refused had it looked up again.
#[test]
fn a_name_that_did_not_resolve_is_looked_up_again() {
    type Main = ClientMain<Stream>;
    let mut main = Programs::new(0, Grain::Coarse).client().main;
    let mut net = Net::new(0, Window::WIDE, 0);
    let tag = Lookup::Local(TUNNEL, 0);
    let mut call = |now, call: &dyn Fn(&mut Main, &mut Cx<'_, Kernel<'_>>)| {
        let told = drive(&mut net, &mut main, Who::ClientMain(0), now, &mut Story::default(), call);
        (told, Driver::<Kernel<'_>>::next_deadline(&*main))
    };
    let asks = |told: &[Told]| told.iter().any(|told| matches!(told, Told::Resolve(asked) if *asked == tag));
    let resolved = |addresses: Vec<_>| {
        move |main: &mut Main, cx: &mut Cx<'_, Kernel<'_>>| {
            main.on_message(cx, ToClientMain::Resolved { tag, addresses: addresses.clone() });
        }
    };
    let (told, _) = call(Instant::ZERO, &|main, cx| main.start(cx));
    assert!(asks(&told));
    let (_, deadline) = call(Instant::ZERO, &resolved(vec![]));
    let again = deadline.expect("it is tried again");
    let (told, _) = call(again, &|main, cx| main.on_deadline(cx));
    assert!(asks(&told), "after a pause: {told:?}");
    let (told, deadline) = call(again, &resolved(vec![at(LOCAL_PORT)]));
    let known =
        |told: &Told| matches!(told, Told::ToClientLoop(ToClientLoop::Tunnel { locals, .. }) if !locals.is_empty());
    assert!(told.iter().any(known), "the event loop is told: {told:?}");
    assert_eq!(deadline, None, "there is nothing left to look up");
}
const LOSSY: Programs = Programs { ctl_losses: 1, server_grace: true, ..Programs::new(0, Grain::Coarse) };

fn close(programs: &Programs, state: &mut State) {
    programs.step(state, Action::CloseTunnel, &mut Story::default());
}

/// Goes on until nothing is due; the tunnel must be closed on both sides, and the client up.
fn assert_closed(programs: &Programs, mut state: State) {
    while programs.step_if_due(&mut state, &mut Story::default()) {}
    programs.assert_quiet(&state);
    assert!(state.clients[0].main.is_up());
    assert_eq!(state.clients[0].main.tunnel(TUNNEL), None);
    assert_eq!((state.net.listens(PUBLIC_PORT), state.listener.ports()), (false, 0));
}

fn lose_ctl_conn(programs: &Programs) -> State {
    let mut story = Story::default();
    let mut state = programs.initial(&mut story);
    let ctl = state.net.links().find(|&(_, role)| role == Role::Ctl).expect("there is a ctl_conn").0;
    programs.step(&mut state, Action::Lose { end: ctl }, &mut story);
    while let Some((end, count, _)) = { state.net.deliverable().next() } {
        programs.step(&mut state, Action::Arrive { end, count, hasty: false }, &mut story);
    }
    assert!(!state.clients[0].main.is_up());
    state
}

#[test]
fn p_tun_6_a_tunnel_is_closed_while_it_is_registered() {
    let programs = Programs { lazy: true, ..Programs::new(0, Grain::Coarse) };
    for answered in [false, true] {
        let mut story = Story::default();
        let mut state = programs.begin(&mut story);
        while state.to_listener.is_empty() {
            assert!(programs.step_if_due(&mut state, &mut story), "the server hears of the tunnel");
        }
        if answered {
            programs.read_mail(&mut state, Who::Listener, &mut story);
            programs.read_mail(&mut state, Who::ServerMain, &mut story);
        }
        close(&programs, &mut state);
        programs.read_mail(&mut state, Who::ClientMain(0), &mut story);
        // A `TunnelReady` that crosses the `CloseTunnel` would be a violation if it were not stale.
        assert_closed(&programs, state);
    }
}

#[test]
fn a_tunnel_that_is_closed_while_there_is_no_ctl_conn_is_closed_after_the_resume() {
    let mut state = lose_ctl_conn(&LOSSY);
    close(&LOSSY, &mut state);
    assert!(!state.clients[0].main.is_up() && state.net.listens(PUBLIC_PORT), "the server has not heard of it");
    assert_closed(&LOSSY, state);
}

#[test]
fn a_tunnel_that_is_closed_while_there_is_no_ctl_conn_is_not_registered_in_the_next_session() {
    let mut state = lose_ctl_conn(&LOSSY);
    let grace = Action::Deadline { of: Who::ServerMain, last: false };
    LOSSY.step(&mut state, grace, &mut Story::default());
    assert_eq!(state.main.sessions(), 0);
    close(&LOSSY, &mut state);
    assert_closed(&LOSSY, state);
}
