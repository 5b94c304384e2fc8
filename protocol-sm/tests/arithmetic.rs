//! The arithmetic below the machines, at its edges: windows, rates, budgets and bandwidth against what they are to be, in
//! wider numbers.

use core::num::NonZeroU64;
use core::time::Duration;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use protocol_sm::auth::ReplayWindow;
use protocol_sm::bandwidth::{Buckets, Direction, LEAST, MOST};
use protocol_sm::ids::ConnId;
use protocol_sm::rate::{Bucket, Rates};
use protocol_sm::time::Instant;
use protocol_sm::transfer::{Egress, Fin, Half, How, Ingress};
use std::collections::BTreeSet;

/// Numbers close to an edge, more often than others.
fn near(edges: &'static [u64]) -> impl Strategy<Value = u64> {
    let close = (0..edges.len(), -2_i64..=2).prop_map(|(edge, by)| edges[edge].saturating_add_signed(by));
    prop_oneof![4 => close, 1 => any::<u64>()]
}

/// So much later.
fn later() -> impl Strategy<Value = Duration> {
    const SECOND: u64 = 1_000_000_000;
    near(&[0, SECOND / 10, SECOND, 60 * SECOND]).prop_map(|nanos| Duration::from_nanos(nanos % (1000 * SECOND)))
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), 0..70_000_usize, Just(usize::MAX >> 1)]
}

proptest! {
    /// Each number is taken once, unless it is too old or leaps too far.
    #[test]
    fn a_window_takes_what_it_should(steps in vec((any::<bool>(), near(&[0, 1, ReplayWindow::SPAN, ReplayWindow::LEAP])), 1..80)) {
        let (mut window, mut taken, mut highest) = (ReplayWindow::default(), BTreeSet::new(), 0_u64);
        for (ahead, by) in steps {
            let n = if ahead { highest.saturating_add(by) } else { highest.saturating_sub(by) };
            let young = u128::from(n) + u128::from(ReplayWindow::SPAN) > u128::from(highest);
            let may = n > 0 && young && n - n.min(highest) <= ReplayWindow::LEAP && !taken.contains(&n);
            prop_assert_eq!(window.take(ConnId(n)), may, "{} at {}", n, highest);
            if may {
                taken.insert(n);
                highest = highest.max(n);
            }
        }
    }

    /// No more than the burst at once, and one for each interval; who is told a time is allowed then, and not before.
    #[test]
    fn a_bucket_gives_what_it_should(burst in 1..20_u32, pauses in vec(later(), 1..80)) {
        let every = Duration::from_millis(100);
        let (mut bucket, mut rates) = (Bucket::new(every, burst), Rates::new(every, burst));
        let (mut now, mut given) = (Instant::ZERO + Duration::from_secs(1), Vec::new());
        for pause in pauses {
            now = now + pause;
            let before = bucket.clone();
            let allowed = bucket.take(now);
            prop_assert_eq!(rates.may(now, 0), allowed.is_ok());
            prop_assert_eq!(rates.take(now, 0), allowed.is_ok());
            match allowed {
                Ok(()) => given.push(now),
                Err(at) => {
                    prop_assert!(at > now && before.clone().take(at).is_ok());
                    prop_assert!(before.clone().take(at.before(Duration::from_nanos(1))).is_err());
                }
            }
        }
        for (first, &from) in given.iter().enumerate() {
            for (count, &to) in (1_u128..).zip(&given[first..]) {
                prop_assert!(count <= u128::from(burst) + to.since(from).as_nanos() / every.as_nanos());
            }
        }
    }

    /// What may be taken and what is held are right whatever the total and the room are.
    #[test]
    fn budgets_are_what_is_left(total in near(&[0, 1, 1 << 32, u64::MAX]), steps in vec((size(), size()), 1..80)) {
        let (mut ingress, mut egress) = (Ingress::default(), Egress::default());
        prop_assert_eq!(ingress.on_fin(Fin { total, how: How::Shut }), Ok(()));
        let (mut taken, mut forwarded) = (0_u128, 0_u128);
        for (room, part) in steps {
            let budget = ingress.budget(room);
            prop_assert_eq!(budget.take as u128, (room as u128).min(u128::from(total) - taken));
            prop_assert_eq!(egress.budget(room).take, room);
            prop_assert_eq!([budget.forward, egress.budget(room).forward].map(|held| held as u128), [taken - forwarded; 2]);
            let n = budget.take.min(part);
            let held = usize::try_from(taken - forwarded).unwrap();
            let Some(held) = held.checked_add(n) else { continue };
            ingress.on_taken(n);
            egress.on_taken(n);
            let out = held.min(part);
            ingress.on_forwarded(out);
            egress.on_forwarded(out);
            (taken, forwarded) = (taken + n as u128, forwarded + out as u128);
            prop_assert_eq!(ingress.due().is_some(), forwarded == u128::from(total));
        }
    }

    /// B1, at the least and at the most that there is.
    #[test]
    fn bandwidth_is_kept(
        rate in prop_oneof![Just(LEAST), Just(MOST), LEAST..1 << 34],
        steps in vec((later(), 0..3_usize), 1..60),
    ) {
        let rate = NonZeroU64::new(rate).unwrap();
        let (mut buckets, mut now, mut given) = (Buckets::default(), Instant::ZERO + Duration::from_secs(1), Vec::new());
        let mut waiting = BTreeSet::new();
        for (pause, loop_index) in steps {
            now = now + pause;
            if waiting.insert(loop_index) {
                buckets.ask(now, 7_u32, Direction::Egress, rate, loop_index);
            }
            while let Some(slice) = buckets.next(now) {
                prop_assert!(waiting.remove(&slice.loop_index), "who has asked is given one slice");
                given.push((now, u128::from(slice.bytes)));
            }
            prop_assert_eq!(buckets.next_deadline().is_some(), !waiting.is_empty());
            prop_assert!(buckets.next_deadline().is_none_or(|at| at > now));
        }
        // What a price is rounded down by, for each slice.
        let rate = u128::from(rate.get());
        let rounded = rate / 1_000_000_000 + 1;
        for (first, &(from, _)) in given.iter().enumerate() {
            let mut sum = 0;
            for (count, &(to, bytes)) in (1..).zip(&given[first..]) {
                sum += bytes;
                let earned = rate * (to.since(from) + Duration::from_millis(100)).as_nanos() / 1_000_000_000;
                prop_assert!(sum <= earned + count * rounded, "{} bytes, {} earned", sum, earned);
            }
        }
    }
}
