//! Fingerprints of states, and parts of states that remember theirs.
//!
//! A state is known by 64 bits. Among n states two that differ share them with a probability of about n² / 2^65:
//! one in four million for 3 million states.

use std::any::{Any, TypeId};
use std::cell::RefCell;
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

/// A part of a state, hashed once and shared between all states that have an equal one: most of the memory of a search
/// would be copies.
#[derive(Clone, Debug)]
pub(super) struct Part<T>(Rc<(u64, T)>);

/// Every part that some state of this thread has, by type and fingerprint.
#[derive(Default)]
struct Shared {
    parts: HashMap<(TypeId, u64), Rc<dyn Any>>,
    /// With so many, it is time to forget those that no state has any more.
    sweep_at: usize,
}

thread_local! {
    static SHARED: RefCell<Shared> = RefCell::default();
}

/// Forgets the parts that no state has.
pub(super) fn forget_parts() {
    SHARED.with_borrow_mut(|shared| {
        shared.parts.retain(|_, part| Rc::strong_count(part) > 1);
        shared.sweep_at = 2 * shared.parts.len() + 10_000;
    });
}

impl<T: Hash + Clone + 'static> Part<T> {
    pub(super) fn new(value: T) -> Self {
        let print = fingerprint(&value);
        let full = SHARED.with_borrow(|shared| shared.parts.len() >= shared.sweep_at);
        if full {
            forget_parts();
        }
        let part = SHARED.with_borrow_mut(|shared| {
            let new = || -> Rc<dyn Any> { Rc::new((print, value)) };
            Rc::clone(shared.parts.entry((TypeId::of::<T>(), print)).or_insert_with(new))
        });
        Self(part.downcast().expect("parts are kept by their type"))
    }

    /// Changes it, in this state only.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.1.clone();
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0);
    }
}

/// For keys that are fingerprints already.
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
        let (a, b) = (Part::new("twice".to_owned()), Part::new("twice".to_owned()));
        assert!(Rc::ptr_eq(&a.0, &b.0) && Rc::strong_count(&a.0) == 3);
        drop(a);
        forget_parts();
        assert_eq!(Rc::strong_count(&b.0), 2, "one state has it still");
        drop(b);
        forget_parts();
        assert!(SHARED.with_borrow(|shared| shared.parts.is_empty()));
    }

    #[test]
    fn a_changed_part_leaves_its_copies_alone() {
        let a = Part::new(1);
        let mut b = a.clone();
        b.change(|n| *n = 2);
        assert_eq!((*a, *b), (1, 2));
        assert_ne!(fingerprint(&a), fingerprint(&b));
    }
}
