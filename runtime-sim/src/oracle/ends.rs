//! The ends that were announced: each half's once, and a reset behind a shut one once more.

use super::Property;
use super::streams::Finding;
use protocol_sm::transfer::{Fin, How};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// See the module. `K` is a half of a transfer, as its ring knows it.
#[derive(Debug)]
pub(crate) struct Ends<K>(BTreeMap<K, Vec<Fin>>);

impl<K> Default for Ends<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy + Debug> Ends<K> {
    /// `half` is announced to have ended.
    ///
    /// # Errors
    /// It had ended, and this is not a reset behind a shut end of the same total.
    pub(crate) fn on_fin(&mut self, half: K, fin: Fin) -> Result<(), Finding> {
        let known = self.0.entry(half).or_default();
        let legal = match known[..] {
            [] => true,
            [Fin { total, how: How::Shut }] => fin == Fin { total, how: How::Reset },
            _ => false,
        };
        if !legal {
            return Err((Property::FinOnce, format!("{half:?}: {fin:?} behind {known:?}")));
        }
        known.push(fin);
        Ok(())
    }

    /// Whether its end was announced.
    pub(crate) fn contains(&self, half: K) -> bool {
        self.0.contains_key(&half)
    }

    /// Whether it was announced as a reset, at once or in the end.
    pub(crate) fn is_reset(&self, half: K) -> bool {
        self.0.get(&half).is_some_and(|fins| fins.iter().any(|fin| fin.how == How::Reset))
    }

    /// How often an end was announced.
    pub(crate) fn count(&self, half: K) -> usize {
        self.0.get(&half).map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reset_of_the_same_total_comes_behind_a_shut_end() {
        let (shut, reset) = (|total| Fin { total, how: How::Shut }, |total| Fin { total, how: How::Reset });
        let legal = |fins: &[Fin]| {
            let mut ends = Ends::default();
            fins.iter().all(|&fin| ends.on_fin(1, fin).is_ok())
        };
        assert!(legal(&[shut(5)]) && legal(&[reset(5)]) && legal(&[shut(5), reset(5)]));
        for fins in [[shut(5), shut(5)], [shut(5), reset(6)], [reset(5), reset(5)], [reset(5), shut(5)]] {
            assert!(!legal(&fins), "{fins:?}");
        }
        assert!(!legal(&[shut(5), reset(5), reset(5)]));
    }
}
