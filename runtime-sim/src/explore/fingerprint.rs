//! Fingerprints of states, and parts of states that remember theirs.
//!
//! A state is known by 64 bits. Among n states two that differ share them with a probability of about n² / 2^65:
//! one in four million for 3 million states.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

/// A hasher that mixes each word by a folded multiplication.
#[derive(Clone, Debug)]
pub(super) struct Mixer(u64);

impl Default for Mixer {
    fn default() -> Self {
        Self(0x243f_6a88_85a3_08d3)
    }
}

impl Mixer {
    fn word(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        let folded = (product as u64) ^ ((product >> 64) as u64);
        self.0 = folded.rotate_left(23) ^ word.wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(bytes.len() as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.word(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.word(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.word(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = self.clone();
        last.word(0x1319_8a2e_0370_7344);
        last.word(0xa409_3822_299f_31d0);
        last.0
    }
}

/// A state's fingerprint.
pub(super) fn fingerprint(state: &impl Hash) -> u64 {
    let mut mixer = Mixer::default();
    state.hash(&mut mixer);
    mixer.finish()
}

/// A part of a state, hashed once. In a search it is shared between all states that have an equal one: most of the
/// memory would be copies. A state that nobody looks up, as those of a walk, pays for neither.
#[derive(Clone, Debug)]
pub(super) struct Part<T> {
    value: Rc<T>,
    /// Its fingerprint, once somebody asked for it.
    print: Cell<Option<u64>>,
}

impl<T> Part<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Rc::new(value), print: Cell::new(None) }
    }
}

impl<T: Clone> Part<T> {
    /// Changes it, in this state only.
    pub(super) fn change(&mut self) -> &mut T {
        self.print.set(None);
        Rc::make_mut(&mut self.value)
    }
}

impl<T: Hash> Part<T> {
    fn print(&self) -> u64 {
        let print = self.print.get().unwrap_or_else(|| fingerprint(&*self.value));
        self.print.set(Some(print));
        print
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Hash> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.print());
    }
}

/// Every part that some state of a search has, by type and fingerprint.
#[derive(Default)]
pub(super) struct Parts {
    all: HashMap<(TypeId, u64), Rc<dyn Any>, BuildHasherDefault<Mixer>>,
    /// When there are so many parts, those that no state has any more are forgotten.
    sweep_at: usize,
}

impl Parts {
    /// Makes `part` one with those that equal it.
    pub(super) fn share<T: Hash + 'static>(&mut self, part: &mut Part<T>) {
        if self.all.len() >= self.sweep_at {
            self.sweep();
        }
        let key = (TypeId::of::<T>(), part.print());
        let one = self.all.entry(key).or_insert_with(|| Rc::clone(&part.value) as Rc<dyn Any>);
        part.value = Rc::clone(one).downcast().expect("parts are kept by their type");
    }

    /// Forgets the parts that no state has.
    fn sweep(&mut self) {
        self.all.retain(|_, part| Rc::strong_count(part) > 1);
        self.sweep_at = 2 * self.all.len() + 10_000;
    }
}

/// A hasher for keys that are fingerprints already.
#[derive(Clone, Debug, Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only for fingerprints");
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A table of fingerprints.
pub(super) type Table<V> = HashMap<u64, V, BuildHasherDefault<AsIs>>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn small_differences_make_different_fingerprints() {
        let mut seen = HashSet::new();
        for a in 0..300_u32 {
            for b in 0..300_u32 {
                assert!(seen.insert(fingerprint(&(a, b))), "({a}, {b})");
            }
        }
        assert!(seen.insert(fingerprint(&"ab")) && seen.insert(fingerprint(&"ba")));
    }

    #[test]
    fn equal_parts_are_one_until_nobody_has_them() {
        let mut parts = Parts::default();
        let (mut a, mut b) = (Part::new("twice".to_owned()), Part::new("twice".to_owned()));
        parts.share(&mut a);
        parts.share(&mut b);
        assert!(Rc::ptr_eq(&a.value, &b.value) && Rc::strong_count(&a.value) == 3);
        drop(a);
        parts.sweep();
        assert_eq!(Rc::strong_count(&b.value), 2, "one state has it still");
        drop(b);
        parts.sweep();
        assert!(parts.all.is_empty());
    }

    #[test]
    fn a_changed_part_leaves_its_copies_alone() {
        let mut a = Part::new(1);
        Parts::default().share(&mut a);
        let mut b = a.clone();
        let before = fingerprint(&a);
        *b.change() = 2;
        assert_eq!((*a, *b), (1, 2));
        assert_eq!(fingerprint(&a), before);
        assert_ne!(fingerprint(&b), before, "it does not go by what it once was");
    }
}
