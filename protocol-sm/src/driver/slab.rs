//! A table whose keys carry a generation: a key of something removed never finds what came after it.

use alloc::vec::Vec;
use core::num::{NonZeroU32, NonZeroU64};

/// A key: the index in the low, the generation in the high 32 bits. Also what readiness is reported as. Never 0, so that
/// an `Option` of one takes no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(NonZeroU64);

impl Token {
    /// What [`Token::number`] said. `None` for 0.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The token as 64 bits, for a system that knows sockets by such a number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0.get()
    }

    fn new(index: usize, generation: NonZeroU32) -> Self {
        let index = u32::try_from(index).expect("fewer than 2^32 sockets");
        let generation = NonZeroU64::new(u64::from(generation.get()) << 32).expect("not 0 before, nor shifted");
        Self(generation | u64::from(index))
    }

    fn index(self) -> usize {
        (self.number() & u64::from(u32::MAX)) as usize
    }

    /// The key of what comes after it.
    fn next(self) -> Self {
        let generation = ((self.number() >> 32) as u32).wrapping_add(1);
        Self::new(self.index(), NonZeroU32::new(generation).unwrap_or(NonZeroU32::MIN))
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry<T> {
    key: Token,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Puts in what `make` returns for its key.
    pub(crate) fn insert_with<E>(&mut self, make: impl FnOnce(Token) -> Result<T, E>) -> Result<Token, E> {
        let index = match self.free.last() {
            Some(&index) => index,
            None => {
                self.entries.push(Entry { key: Token::new(self.entries.len(), NonZeroU32::MIN), value: None });
                self.free.push(self.entries.len() - 1);
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[index];
        entry.value = Some(make(entry.key)?);
        self.free.pop();
        Ok(entry.key)
    }

    /// Takes out what `key` names, if it is still there.
    pub(crate) fn remove(&mut self, key: Token) -> Option<T> {
        let entry = self.entries.get_mut(key.index()).filter(|entry| entry.key == key)?;
        let value = entry.value.take()?;
        entry.key = key.next();
        self.free.push(key.index());
        Some(value)
    }

    /// What `key` names, if it is there, becomes something else under the same key.
    pub(crate) fn update(&mut self, key: Token, become_: impl FnOnce(T) -> T) {
        if let Some(entry) = self.entries.get_mut(key.index()).filter(|entry| entry.key == key) {
            entry.value = entry.value.take().map(become_);
        }
    }

    pub(crate) fn get_mut(&mut self, key: Token) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index()).filter(|entry| entry.key == key)?;
        entry.value.as_mut()
    }

    /// Two different things at once.
    pub(crate) fn get_two(&mut self, a: Token, b: Token) -> Option<(&mut T, &mut T)> {
        let [x, y] = self.entries.get_disjoint_mut([a.index(), b.index()]).ok()?;
        if x.key != a || y.key != b {
            return None;
        }
        Some((x.value.as_mut()?, y.value.as_mut()?))
    }

    pub(crate) fn get(&self, key: Token) -> Option<&T> {
        let entry = self.entries.get(key.index()).filter(|entry| entry.key == key)?;
        entry.value.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.entries.iter().filter_map(|entry| Some((entry.key, entry.value.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|entry| entry.value.as_mut())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Token> {
        self.entries.iter().filter(|entry| entry.value.is_some()).map(|entry| entry.key)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_go_round_and_are_never_0() {
        let last = Token::new(0, NonZeroU32::MAX);
        assert_eq!(last.next(), Token::new(0, NonZeroU32::MIN));
        assert_eq!(Token::from_number(last.number()), Some(last));
        assert_eq!(size_of::<Option<Token>>(), size_of::<u64>());
    }

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::default();
        let a = slab.insert_with(|_| Ok::<_, ()>('a')).unwrap();
        assert_eq!(slab.remove(a), Some('a'));
        let b = slab.insert_with(|_| Ok::<_, ()>('b')).unwrap();
        assert_eq!(a.index(), b.index());
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.remove(a), None);
        assert!(slab.insert_with(|_| Err('x')).is_err());
        let c = slab.insert_with(|_| Ok::<_, ()>('c')).unwrap();
        assert_eq!(slab.get_two(b, c), Some((&mut 'b', &mut 'c')));
        assert_eq!(slab.get_two(b, b), None);
        assert_eq!(slab.len(), 2);
    }
}
